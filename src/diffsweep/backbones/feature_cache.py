r"""Reuse of a network's deep features between the steps of sampling (DeepCache, Ma et al. 2023, arXiv:2312.00858).

The features h of the inner blocks change little from one time to the next, so most steps take those of an earlier one:

.. math:: F(x_{t_i}, t_i) \approx F_{outer}(x_{t_i}, t_i; h(x_{t_j}, t_j)), \qquad j = \max\{k \in K: k \le i\},

where K are the steps that compute everything. In a U-Net h are the maps of the lower levels; in a transformer the
residual that a range of blocks adds (FORA, arXiv:2407.01425; Delta-DiT, arXiv:2406.01125).
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffsweep.backbones.base import Reuse
from diffsweep.capabilities import Part
from diffsweep.diffusion import Condition, Denoised, Denoiser, NetworkDenoiser


class FeatureCache(Part, ABC):
    """A choice of the steps of sampling that compute the whole network; the others reuse its deep features.

    A subclass defines :meth:`whole_steps`. The object has no state: each call makes a denoiser for one trajectory.

    Args:
        branch: the number of blocks at either end of the network that every call computes: of a U-Net the residual
            stages on the way up and the maps that they read, of a transformer the first and the last blocks.

    Raises:
        ValueError: ``branch`` is below 1.
    """

    requires = frozenset({"fixed_steps", "likelihood"})
    provides = frozenset({"cached_features"})

    def __init__(self, branch: int = 1) -> None:
        if branch < 1:
            raise ValueError(f"feature_cache.branch must be at least 1, not {branch}")
        self.branch = branch

    @abstractmethod
    def whole_steps(self, steps: int) -> Sequence[int]:
        """Return the numbers of the steps in which everything is computed, increasing, of which the first is 0.

        Args:
            steps: the number of steps of the sampler, which have the numbers 0 to ``steps`` - 1 from noise to data.
        """

    def __call__(self, denoiser: NetworkDenoiser, times: Tensor) -> Denoiser:
        """Return a denoiser for one trajectory, which keeps the deep features of the network between its calls.

        Args:
            denoiser: the denoiser of a network that supports ``cached_features``; it is not changed.
            times: the times of the sampler's steps, (steps + 1,), decreasing.
        """
        return CachedDenoiser(denoiser, self.branch, self.whole_steps(len(times) - 1), times)


class UniformCache(FeatureCache):
    """A cache by which every N-th step computes everything (uniform 1:N inference of DeepCache, arXiv:2312.00858).

    Args:
        interval: N; 1 computes everything in each step.
        branch: see :class:`FeatureCache`.

    Raises:
        ValueError: an option is below 1.
    """

    def __init__(self, interval: int = 3, branch: int = 1) -> None:
        super().__init__(branch)
        self.interval = _at_least_1(interval)

    def whole_steps(self, steps: int) -> Sequence[int]:
        return range(0, steps, self.interval)


class NonUniformCache(FeatureCache):
    r"""A cache whose whole steps are dense around a part of the trajectory (non-uniform 1:N inference of DeepCache).

    Of T steps K = ceil(T / N) compute everything, with the numbers (arXiv:2312.00858, section 3.3)

    .. math:: i_k = \lfloor l_k^p + c T \rfloor, \quad l_k \text{ evenly spaced from } (-c T)^{1/p} \text{ on to }
       ((1 - c) T)^{1/p}, \quad k < K,

    where powers keep the sign of their base. Numbers that would coincide move to the nearest free ones.

    Args:
        interval: N; 1 computes everything in each step.
        branch: see :class:`FeatureCache`.
        centre: c, the place around which whole steps are dense, as a share of the steps from noise on, in [0, 1].
        power: p, at least 1, which is even spacing.

    Raises:
        ValueError: an option is out of its range.
    """

    def __init__(self, interval: int = 3, branch: int = 1, centre: float = 0.3, power: float = 1.4) -> None:
        super().__init__(branch)
        if not 0 <= centre <= 1:
            raise ValueError(f"feature_cache.centre lies in [0, 1], not {centre}")
        if not (power >= 1 and math.isfinite(power)):
            raise ValueError(f"feature_cache.power must be at least 1, not {power}")
        self.interval, self.centre, self.power = _at_least_1(interval), centre, power

    def whole_steps(self, steps: int) -> Sequence[int]:
        count, c = math.ceil(steps / self.interval), self.centre * steps
        first, last = _power(-c, 1 / self.power), _power(steps - c, 1 / self.power)
        even = (first + (last - first) * k / count for k in range(count))
        found: list[int] = []
        for k, place in enumerate(even):
            number = math.floor(_power(place, self.power) + c + 1e-9)  # the first one is 0 within rounding
            least = found[-1] + 1 if found else 0
            found.append(min(max(number, least), steps - count + k))
        return found


def _at_least_1(interval: int) -> int:
    if interval < 1:
        raise ValueError(f"feature_cache.interval must be at least 1, not {interval}")
    return interval


def _power(base: float, exponent: float) -> float:
    """Return a power with the sign of its base."""
    return math.copysign(abs(base) ** exponent, base)


class _Reusing(nn.Module):
    """A network that keeps its deep features, and reuses them unless ``whole`` is set."""

    def __init__(self, network: nn.Module, branch: int) -> None:
        super().__init__()
        self.network, self.branch, self.whole = network, branch, True
        self.features: Tensor | None = None

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None = None) -> Tensor:
        kept = None if self.whole else self.features
        output, features = self.network(x, c_noise, cond, reuse=Reuse(self.branch, kept))
        self.features = features.detach()
        return output  # type: ignore[no-any-return]


class CachedDenoiser(Denoiser):
    """A denoiser for one trajectory that reuses the network's deep features, and computes them anew in some steps.

    Everything is computed too where the features are of something else: in the first call, if the number or shape of
    the samples changes (guidance in a part of the time), if the condition is another object, if the time is later than
    that of the call before (guidance that goes back in t, inversion), if each sample has a time of its own, and if
    gradients with respect to x_t are taken.

    Args:
        denoiser: the denoiser of a network that supports ``cached_features``.
        branch: the number of blocks at either end of the network that every call computes.
        whole_steps: the numbers of the steps whose calls compute everything.
        times: the times of the steps, (steps + 1,), decreasing. A step has the times from its beginning to, but
            without, that of the next one.
    """

    def __init__(self, denoiser: NetworkDenoiser, branch: int, whole_steps: Sequence[int], times: Tensor) -> None:
        super().__init__(denoiser.schedule, denoiser.prediction, denoiser.noise)
        self.network = _Reusing(denoiser.backbone, branch)
        self.denoiser = denoiser.with_network(self.network)
        self._whole_steps = frozenset(whole_steps)
        self._begins = times[:-1].flip(0).tolist()  # increasing
        self._last: tuple[float, torch.Size, torch.dtype, Condition | None] | None = None

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        self._choose(x_t, t, cond)
        estimates: Denoised = self.denoiser(x_t, t, cond)
        return estimates

    def output(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, levels: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        self._choose(x_t, t, cond)
        return self.denoiser.output(x_t, t, cond, levels)

    def _choose(self, x_t: Tensor, t: Tensor, cond: Condition | None) -> None:
        """Decide whether the next call of the network computes everything."""
        if t.ndim or t.device.type != "cpu":  # reading times from a GPU would wait for it
            self.network.whole, self._last = True, None
            return
        time, last = t.item(), self._last
        self._last = time, x_t.shape, x_t.dtype, cond
        self.network.whole = (
            last is None
            or time > last[0]
            or last[1:3] != self._last[1:3]
            or last[3] is not cond
            or self._step(time) in self._whole_steps
            or (torch.is_grad_enabled() and x_t.requires_grad)
        )

    def _step(self, time: float) -> int:
        """Return the number of the step in which a time lies."""
        return max(0, len(self._begins) - 1 - bisect_left(self._begins, time))
