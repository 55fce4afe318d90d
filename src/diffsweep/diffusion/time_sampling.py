r"""Densities p(t) of training times, by maps from uniform numbers to times with importance weights 1 / (T p(t)).

With these weights the mean loss is that over uniform times: :math:`E_{t \sim p}[L_t / (T p_t)] = \frac1T \sum_t L_t`.
Where a density is meant as a part of the loss (:class:`LogNormal`, :class:`LogitNormal`) all weights are 1.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from diffsweep.capabilities import Part
from diffsweep.schedules import Schedule


class TimeSampling(nn.Module, Part, ABC):
    """A density over training times; state that it learns of the losses is kept in buffers, which checkpoints hold.

    It maps uniform numbers to times and importance weights; a subclass defines this as :meth:`forward`. It provides
    ``uniform_times`` if weighted losses average to those of uniform times; else the density is a part of the loss.
    """

    provides = frozenset({"uniform_times"})

    @abstractmethod
    def forward(self, schedule: Schedule, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return times and importance weights, each like ``u``; each subclass defines it.

        Args:
            schedule: the schedule, whose grid or interval [t_min, t_max] the times lie in.
            u: uniform numbers in [0, 1), (B,); or (B, F), of each frame.

        Returns:
            the times, and their weights, whose expected value is 1.
        """

    def validation_times(self, schedule: Schedule, u: Tensor) -> Tensor:
        """Return the times at which held-out samples are measured, like ``u``: here uniform ones, so that runs compare.

        Args:
            schedule, u: see :meth:`forward`.
        """
        return schedule.time_at(u)

    def update(self, schedule: Schedule, t: Tensor, losses: Tensor) -> None:
        """Learn from unweighted losses (N,) at times ``t`` (N,), of all processes of a training; here nothing.

        Training calls it after each batch, only if ``requires`` contains ``bound``.
        """


class Uniform(TimeSampling):
    """Uniform training times: over the grid of a discrete schedule, or the interval of a continuous one."""

    def forward(self, schedule: Schedule, u: Tensor) -> tuple[Tensor, Tensor]:
        return schedule.time_at(u), torch.ones_like(u)


class FixedTime(TimeSampling):
    """One training time, in training and validation: at t = 1 a network learns a regression, E[x_0 | condition].

    x_1 has next to nothing of x_0, so what it predicts at t = 1 is the mean of all samples that its condition allows,
    which a single step of ``sampler=ddim`` returns. On the grid of a discrete schedule the next time up is taken; on a
    continuous schedule the time is clamped to [t_min, t_max].

    Args:
        time: the time, above 0 and at most 1.

    Raises:
        ValueError: ``time`` is out of its range.
    """

    provides = frozenset()

    def __init__(self, time: float = 1.0) -> None:
        super().__init__()
        if not 0 < time <= 1:
            raise ValueError(f"time_sampling.time must be above 0 and at most 1, not {time}")
        self.time = time

    def forward(self, schedule: Schedule, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.validation_times(schedule, u), torch.ones_like(u)

    def validation_times(self, schedule: Schedule, u: Tensor) -> Tensor:
        return schedule.on_grid(torch.full_like(u, self.time, dtype=torch.float64)).to(u.dtype)


class Stratified(TimeSampling):
    r"""Uniform training times of low discrepancy, from :math:`u_i = (u_0 + i / B) \bmod 1`.

    They are those of VDM (arXiv:2107.00630, app. I.1). Only the first row of the uniform numbers, u_0, is used. Each
    time is uniform, and together they cover [0, 1) evenly, so that the batch's loss varies less.
    """

    def forward(self, schedule: Schedule, u: Tensor) -> tuple[Tensor, Tensor]:
        shifts = torch.arange(len(u), device=u.device, dtype=u.dtype) / max(1, len(u))
        shifts = shifts.reshape(-1, *[1] * (u.ndim - 1))
        even = ((u[:1] + shifts) % 1).clamp(max=1 - torch.finfo(u.dtype).eps / 2)
        return schedule.time_at(even), torch.ones_like(u)


class Importance(TimeSampling):
    r"""Training times with probabilities that follow the size of their losses, :math:`p_t \propto \sqrt{E[L_t^2]}`.

    The weights are :math:`1 / (T p_t)` (improved DDPM, arXiv:2102.09672, section 3.3). Times are uniform until each of
    them has its history of losses.

    Args:
        num_steps: T of the schedule; with None, for a continuous one, it cannot be used.
        history: the number of newest losses that are kept for each time, at least 1.
        uniform: the probability that is spread over all times equally, in [0, 1].

    Raises:
        ValueError: an argument is out of its range.
    """

    requires = frozenset({"grid", "bound"})
    losses: Tensor
    counts: Tensor

    def __init__(self, num_steps: int | None, history: int = 10, uniform: float = 0.001) -> None:
        super().__init__()
        if history < 1 or not 0 <= uniform <= 1:
            raise ValueError(
                f"time_sampling needs history of at least 1 and uniform in [0, 1], not {history} and {uniform}"
            )
        self.history, self.uniform = history, uniform
        self.register_buffer("losses", torch.zeros(num_steps or 0, history))
        self.register_buffer("counts", torch.zeros(num_steps or 0, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """Return the probabilities of the times 1/T, ..., 1, float64, (T,), from the losses that are kept."""
        root = self.losses.double().square().mean(1).sqrt()
        p = root / root.sum() * (1 - self.uniform) + self.uniform / len(root)
        # The choice is made on the device, since a decision on the host would wait for the device.
        known = (self.counts >= self.history).all() & (root.sum() > 0)
        return torch.where(known, p, torch.full_like(p, 1 / len(p)))

    def forward(self, schedule: Schedule, u: Tensor) -> tuple[Tensor, Tensor]:
        p = self.probabilities()
        cumulative = p.cumsum(0)
        k = torch.searchsorted(cumulative, u.double() * cumulative[-1], right=True).clamp(max=len(p) - 1)
        return (k + 1).to(u.dtype) / len(p), (1 / (len(p) * p[k])).to(u.dtype)

    def update(self, schedule: Schedule, t: Tensor, losses: Tensor) -> None:
        # Of each time the newest losses replace the oldest.
        k = (t.double() * len(self.counts)).round().long() - 1  # (N,)
        order = k.argsort(stable=True)
        k, values = k[order], losses.to(self.losses)[order]
        begin, end = torch.searchsorted(k, k), torch.searchsorted(k, k, right=True)  # equal times are neighbours
        rank = torch.arange(len(k), device=k.device)
        slot = (self.counts[k] + rank - begin) % self.history
        newest = end - 1 - (end - 1 - rank) % self.history  # the last loss of those for the same slot
        self.losses[k, slot] = values[newest]
        self.counts.index_add_(0, k, torch.ones_like(k))


class LogNormal(TimeSampling):
    r"""Training times with :math:`\log(\sigma / \alpha) \sim N(P_{mean}, P_{std}^2)` (EDM, arXiv:2206.00364, table 1).

    The density is a part of the loss, so that all weights are 1. On the grid of a discrete schedule the next time up is
    taken; on a continuous schedule times are clamped to [t_min, t_max].

    Args:
        mean: P_mean.
        std: P_std, positive.

    Raises:
        ValueError: std is not positive.
    """

    provides = frozenset()

    def __init__(self, mean: float = -1.2, std: float = 1.2) -> None:
        super().__init__()
        if std <= 0:
            raise ValueError(f"time_sampling.std must be positive, not {std}")
        self.mean, self.std = mean, std

    def forward(self, schedule: Schedule, u: Tensor) -> tuple[Tensor, Tensor]:
        log_sigma = self.mean + self.std * torch.special.ndtri(u.double())
        return schedule.on_grid(schedule.time_of(-2 * log_sigma)).to(u.dtype), torch.ones_like(u)


class LogitNormal(TimeSampling):
    r"""Training times with :math:`\mathrm{logit}(t) \sim N(m, s^2)` (Stable Diffusion 3, arXiv:2403.03206, eq. 19).

    The density is a part of the loss, so that all weights are 1. On the grid of a discrete schedule the next time up is
    taken; on a continuous schedule times are clamped to [t_min, t_max].

    Args:
        mean: m; larger means noisier.
        std: s, positive.

    Raises:
        ValueError: std is not positive.
    """

    provides = frozenset()

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        if std <= 0:
            raise ValueError(f"time_sampling.std must be positive, not {std}")
        self.mean, self.std = mean, std

    def forward(self, schedule: Schedule, u: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.sigmoid(self.mean + self.std * torch.special.ndtri(u.double()))
        return schedule.on_grid(t).to(u.dtype), torch.ones_like(u)


def stratified(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the middles of ``count`` equal cells of [0, 1), in an order that looks random, (count,).

    The order is that of the golden-ratio sequence, so that neighbouring entries are far apart. It is deterministic.
    """
    golden = torch.arange(count, dtype=torch.float64) * 0.6180339887498949
    return ((golden % 1).argsort().argsort().to(dtype) + 0.5) / count
