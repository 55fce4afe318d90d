r"""Pairs of neighbouring times s < t, at which training compares a consistency function with itself.

A consistency function has one value along a trajectory of the ODE, and training compares it at the ends of intervals:

==================  ==================================================================================
class               intervals, k of K steps into the training
==================  ==================================================================================
:class:`Grid`       between N fixed noise levels
:class:`Growing`    :math:`N(k) = \lceil \sqrt{\frac kK ((s_1 + 1)^2 - s_0^2) + s_0^2} - 1 \rceil + 1` levels
:class:`Doubling`   :math:`N(k) = \min(s_0 2^{\lfloor k / K' \rfloor}, s_1) + 1` levels
:class:`Shrinking`  :math:`r_s / r_t = 1 - n(r_t) / q^a` with the noise-to-signal ratio r, and a larger and larger
==================  ==================================================================================

Levels are spaced in :math:`r^{1/7}` with :math:`r = \sigma / \alpha`, as EDM's, if nothing else is chosen.
"""

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.diffusion.spacing import SPACINGS, spaced_times
from diffsweep.diffusion.time_sampling import LogNormal
from diffsweep.schedules import Schedule

PairWeight = Literal["one", "inverse"]


class Pairs(NamedTuple):
    """Neighbouring times s < t of the samples of a batch, float64, (B,) each.

    Attributes:
        t, s: the times.
        to_clean: bool, whether the interval ends at clean data (sigma = 0), whatever sigma(s) is.
        weight: the weight of the loss at each pair.
    """

    t: Tensor
    s: Tensor
    to_clean: Tensor
    weight: Tensor


class Discretisation(Part, ABC):
    """A choice of neighbouring times s < t in the course of a training; a subclass defines :meth:`intervals`.

    Args:
        mu: the decay of the average of the student's weights whose estimates are the targets, in [0, 1). With 0 they
            are the student's own estimates, without a gradient.
        weight: ``one``, or ``inverse`` for :math:`1 / (r_t - r_s)` with :math:`r = \\sigma / \\alpha`.

    Raises:
        ValueError: an argument is out of its range.
    """

    provides = frozenset({"time_pairs"})

    def __init__(self, mu: float, weight: PairWeight) -> None:
        if not 0 <= mu < 1:
            raise ValueError(f"discretisation.mu must be in [0, 1), not {mu}")
        if weight not in ("one", "inverse"):
            raise ValueError(f"discretisation.weight is one of one, inverse, not {weight}")
        self.mu, self.weight = mu, weight

    def decay(self, progress: float) -> float:
        """Return mu, the decay of the averaged weights, at a share of the training in [0, 1]."""
        return self.mu

    def levels(self, progress: float) -> int | None:
        """Return N, the number of noise levels, at a share of the training in [0, 1]; None: they are not on a grid."""
        return None

    @abstractmethod
    def intervals(
        self, schedule: Schedule, u: Tensor, progress: float, lowest: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return t, s and whether the interval ends at clean data, then r_t and r_s, (B,) each; subclasses define it.

        The arguments are those of :meth:`pairs`.
        """

    def pairs(self, schedule: Schedule, u: Tensor, progress: float, lowest: float = 0.0) -> Pairs:
        """Return the neighbouring times of a batch.

        Args:
            schedule: the noise schedule.
            u: uniform numbers in [0, 1), float64, (B,), which choose the interval of each sample.
            progress: the share of the training that has passed, k / K in [0, 1].
            lowest: sigma / alpha at the lowest noise level, where a consistency function is the identity. Above 0 it is
                that at ``schedule.t_min``.
        """
        t, s, to_clean, ratio_t, ratio_s = self.intervals(schedule, u, progress, lowest)
        gap = ratio_t - ratio_s
        inverse = torch.where(gap > 0, 1 / gap, torch.zeros_like(gap))
        return Pairs(t, s, to_clean, inverse if self.weight == "inverse" else torch.ones_like(gap))


class Grid(Discretisation):
    """Pairs of neighbours among N noise levels, each pair equally probable (arXiv:2303.01469, algorithms 2 and 3).

    Args:
        levels: N, at least 2. EDM's schedule has them from sigma_max to sigma_min, others from t = 1 to t = 0.
        spacing: ``karras``, ``log_snr``, ``uniform`` or ``quadratic``: see :mod:`diffsweep.diffusion.spacing`.
        mu, weight: see :class:`Discretisation`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, levels: int = 18, spacing: str = "karras", mu: float = 0.95, weight: PairWeight = "one") -> None:
        super().__init__(mu, weight)
        if levels < 2:
            raise ValueError(f"discretisation.levels must be at least 2, not {levels}")
        if spacing not in (allowed := ("karras", "log_snr", "uniform", "quadratic")):
            raise ValueError(f"discretisation.spacing is one of {', '.join(allowed)}, not {spacing}")
        self.count, self.spacing = levels, spacing

    def levels(self, progress: float) -> int:
        return self.count

    def times(self, schedule: Schedule, count: int, lowest: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the times of the levels, decreasing, and their noise-to-signal ratios, float64, (N,) each.

        The last two times are both 0 if sigma(0) is not 0 and the lowest level is clean data; the last ratio is then 0.

        Args:
            schedule: the noise schedule.
            count: N.
            lowest: as of :meth:`pairs`.
        """

        def make() -> tuple[Tensor, Tensor]:
            if lowest > 0:
                times = SPACINGS[self.spacing](schedule, count - 1, 1.0, schedule.t_min)
            else:
                times = spaced_times(schedule, self.spacing, count - 1)
            ratios = torch.exp(-schedule.log_snr(times) / 2)
            if lowest == 0:
                ratios[-1] = 0
            return times, ratios

        return schedule.cached(("levels", self.spacing, count, lowest), make)

    def probabilities(self, ratios: Tensor) -> Tensor:
        """Return the probability of each interval between noise levels, like ``ratios`` but one less: all the same.

        Args:
            ratios: the noise-to-signal ratios of the levels, decreasing, (N,).
        """
        return torch.full_like(ratios[1:], 1 / (len(ratios) - 1))

    def intervals(
        self, schedule: Schedule, u: Tensor, progress: float, lowest: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        count = self.levels(progress)

        def make() -> tuple[Tensor, Tensor, Tensor]:
            times, ratios = self.times(schedule, count, lowest)
            return times.to(u), ratios.to(u), self.probabilities(ratios).cumsum(0).to(u)

        key = ("intervals", self, count, lowest, u.device)  # nothing is copied to the device in each step
        times, ratios, cumulative = schedule.cached(key, make)
        i = torch.searchsorted(cumulative, u * cumulative[-1], right=True).clamp(max=len(cumulative) - 1)
        t, s = times[i], times[i + 1]
        return t, s, (ratios[i + 1] == 0) & (s == 0), ratios[i], ratios[i + 1]


class Growing(Grid):
    r"""Pairs among more and more noise levels, with a slower and slower average (arXiv:2303.01469, section 5).

    .. math:: N(k) = \lceil \sqrt{\tfrac kK ((s_1 + 1)^2 - s_0^2) + s_0^2} - 1 \rceil + 1, \qquad
        \mu(k) = \exp(s_0 \log \mu_0 / N(k)).

    Args:
        first, last: s_0 and s_1, the numbers of levels at the beginning and the end; 2 <= s_0 <= s_1.
        spacing, weight: see :class:`Grid`.
        mu: mu_0, the decay at the beginning.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self, first: int = 2, last: int = 150, spacing: str = "karras", mu: float = 0.9, weight: PairWeight = "one"
    ) -> None:
        super().__init__(max(first, last, 2), spacing, mu, weight)
        if not 2 <= first <= last:
            raise ValueError(f"discretisation needs 2 <= first <= last, not {first} and {last}")
        self.first, self.last = first, last

    def levels(self, progress: float) -> int:
        squares = progress * ((self.last + 1) ** 2 - self.first**2) + self.first**2
        return math.ceil(math.sqrt(squares) - 1) + 1

    def decay(self, progress: float) -> float:
        return math.exp(self.first * math.log(self.mu) / self.levels(progress)) if self.mu > 0 else 0.0


class Doubling(Grid):
    r"""Pairs among noise levels whose number doubles, drawn by a log-normal density (arXiv:2310.14189).

    .. math:: N(k) = \min(s_0 2^{\lfloor k / K' \rfloor}, s_1) + 1, \qquad
        K' = \lfloor K / (\log_2 \lfloor s_1 / s_0 \rfloor + 1) \rfloor,

    and the interval from :math:`r_s` to :math:`r_t` has the probability of :math:`\log r` within it under
    :math:`N(P_{mean}, P_{std}^2)`.

    Args:
        first, last: s_0 and s_1, the numbers of intervals at the beginning and the end; 1 <= s_0 <= s_1.
        mean, std: P_mean and P_std, the latter positive.
        spacing, mu, weight: see :class:`Grid`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        first: int = 10,
        last: int = 1280,
        mean: float = -1.1,
        std: float = 2.0,
        spacing: str = "karras",
        mu: float = 0.0,
        weight: PairWeight = "inverse",
    ) -> None:
        super().__init__(max(first, last, 1) + 1, spacing, mu, weight)
        if not 1 <= first <= last or std <= 0:
            raise ValueError(f"discretisation needs 1 <= first <= last and std above 0, not {first}, {last} and {std}")
        self.first, self.last, self.mean, self.std = first, last, mean, std

    def levels(self, progress: float) -> int:
        doublings = math.floor(progress * (math.log2(self.last // self.first) + 1) + 1e-9)
        return int(min(self.first * 2**doublings, self.last)) + 1

    def probabilities(self, ratios: Tensor) -> Tensor:
        below = torch.special.ndtr((ratios.log() - self.mean) / self.std)
        p = below[:-1] - below[1:]
        return p / p.sum()


class Shrinking(Discretisation):
    r"""Intervals that shrink towards the differential, from those of diffusion training (arXiv:2406.14548).

    .. math:: \frac{r_s}{r_t} = \max\left(0, 1 - \frac{n(r_t)}{q^a}\right), \qquad
        n(r) = 1 + k \, \mathrm{logistic}(-b r),

    with the noise-to-signal ratio r and a = 1, 2, ... in equal parts of the training. While r_s is 0, the target is x_0
    itself and the loss is that of a diffusion model, from whose weights such a training starts.

    Args:
        q: the factor by which intervals shrink, above 1.
        stages: the number of parts of the training, of which the last has a = ``stages``.
        k, b: of the function n; both at least 0.
        mean, std: of log r_t, which is normal; ``std`` is positive.
        mu, weight: see :class:`Discretisation`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        q: float = 2.0,
        stages: int = 8,
        k: float = 8.0,
        b: float = 1.0,
        mean: float = -1.1,
        std: float = 2.0,
        mu: float = 0.0,
        weight: PairWeight = "inverse",
    ) -> None:
        super().__init__(mu, weight)
        if q <= 1 or stages < 1 or k < 0 or b < 0 or std <= 0:
            raise ValueError(
                "discretisation needs q above 1, stages of at least 1, k and b of at least 0 and std above 0, not "
                f"{q}, {stages}, {k}, {b} and {std}"
            )
        self.q, self.stages, self.k, self.b = q, stages, k, b
        self.sampling = LogNormal(mean, std)

    def share(self, ratio: Tensor, progress: float) -> Tensor:
        """Return r_s / r_t for noise-to-signal ratios r_t, like ``ratio``, at a share of the training in [0, 1]."""
        a = min(math.floor(progress * self.stages + 1e-9), self.stages - 1) + 1
        return (1 - (1 + self.k * torch.sigmoid(-self.b * ratio)) / self.q**a).clamp(min=0)

    def intervals(
        self, schedule: Schedule, u: Tensor, progress: float, lowest: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        t, _ = self.sampling(schedule, u)
        end = schedule.t_min if lowest > 0 else 0.0
        ratio_t = torch.exp(-schedule.log_snr(t) / 2)
        s = schedule.time_of(-2 * (ratio_t * self.share(ratio_t, progress)).log()).clamp(min=end)
        s = torch.minimum(s, t)
        to_clean = (s == 0) & (lowest == 0)
        ratio_s = torch.where(to_clean, torch.zeros_like(s), torch.exp(-schedule.log_snr(s) / 2))
        return t, s, to_clean, ratio_t, ratio_s
