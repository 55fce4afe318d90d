"""Which times a training batch looks at: maps from uniform numbers to times with importance weights."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from diffsweep.capabilities import Part
from diffsweep.schedules import Schedule


class TimeSampling(nn.Module, Part, ABC):
    """A density over training times. What it learns of the losses lies in buffers, so checkpoints have it.

    It provides ``uniform_times`` where weighted losses average to those of uniform times; else the density is part of the loss.
    """

    provides = frozenset({"uniform_times"})

    @abstractmethod
    def forward(self, schedule: Schedule, u: Tensor) -> tuple[Tensor, Tensor]:
        """Times and importance weights, like ``u``, (B,) or of each frame (B, F), uniform in [0, 1); the mean weight is 1."""

    def update(self, schedule: Schedule, t: Tensor, losses: Tensor) -> None:
        """Hear of the losses (N,), unweighted, at times ``t`` (N,), of all ranks; only where it requires a ``bound``."""


class Uniform(TimeSampling):
    """All times alike: the grid of a discrete schedule, the interval of a continuous one."""

    def forward(self, schedule: Schedule, u: Tensor) -> tuple[Tensor, Tensor]:
        return schedule.time_at(u), torch.ones_like(u)


class Stratified(TimeSampling):
    r"""Uniform times of low discrepancy: :math:`u_i = (u_0 + i / B) \bmod 1` (VDM, arXiv:2107.00630, app. I.1). Each time is
    uniform, together they cover [0, 1) evenly, so that the batch's loss varies less."""

    def forward(self, schedule: Schedule, u: Tensor) -> tuple[Tensor, Tensor]:
        shifts = torch.arange(len(u), device=u.device, dtype=u.dtype) / max(1, len(u))
        shifts = shifts.reshape(-1, *[1] * (u.ndim - 1))
        even = ((u[:1] + shifts) % 1).clamp(max=1 - torch.finfo(u.dtype).eps / 2)
        return schedule.time_at(even), torch.ones_like(u)


class Importance(TimeSampling):
    r"""Times in proportion to the root of the loss's second moment there: :math:`p_t \propto \sqrt{E[L_t^2]}`, weights
    :math:`1 / (T p_t)` (improved DDPM, arXiv:2102.09672, section 3.3). Uniform until each time has its history.

    Args:
        num_steps: T of the schedule; on a continuous one, None, it cannot be used.
        history: losses kept of each time.
        uniform: probability that is spread over all times alike.
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
        """p of steps 1 .. T, float64, (T,)."""
        root = self.losses.double().square().mean(1).sqrt()
        p = root / root.sum() * (1 - self.uniform) + self.uniform / len(root)
        # Chosen on the device: asking the host whether the history is full would wait for it.
        known = (self.counts >= self.history).all() & (root.sum() > 0)
        return torch.where(known, p, torch.full_like(p, 1 / len(p)))

    def forward(self, schedule: Schedule, u: Tensor) -> tuple[Tensor, Tensor]:
        p = self.probabilities()
        cumulative = p.cumsum(0)
        k = torch.searchsorted(cumulative, u.double() * cumulative[-1], right=True).clamp(max=len(p) - 1)
        return (k + 1).to(u.dtype) / len(p), (1 / (len(p) * p[k])).to(u.dtype)

    def update(self, schedule: Schedule, t: Tensor, losses: Tensor) -> None:
        """The oldest losses of a time give way to the newest."""
        k = (t.double() * len(self.counts)).round().long() - 1  # (N,)
        order = k.argsort(stable=True)
        k, values = k[order], losses.to(self.losses)[order]
        begin, end = torch.searchsorted(k, k), torch.searchsorted(k, k, right=True)  # equal times stand together
        rank = torch.arange(len(k), device=k.device)
        slot = (self.counts[k] + rank - begin) % self.history
        newest = end - 1 - (end - 1 - rank) % self.history  # the last one that goes to the same slot
        self.losses[k, slot] = values[newest]
        self.counts.index_add_(0, k, torch.ones_like(k))


class LogNormal(TimeSampling):
    r""":math:`\log(\sigma/\alpha) \sim N(P_{mean}, P_{std}^2)` (EDM, arXiv:2206.00364, table 1): a part of the loss, not undone by
    weights. On a grid, the next time up.

    Args:
        mean: P_mean.
        std: P_std.
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
    r""":math:`\mathrm{logit}(t) \sim N(m, s^2)` (Stable Diffusion 3, arXiv:2403.03206, eq. 19): a part of the loss, not undone by
    weights. On a grid, the next time up.

    Args:
        mean: m; larger means noisier.
        std: s.
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
    """One number in each of ``count`` equal cells of [0, 1), at its middle, in an order that looks random: (count,).

    The order is that of the golden-ratio sequence, so that neighbouring samples see distant times. Deterministic.
    """
    golden = torch.arange(count, dtype=torch.float64) * 0.6180339887498949
    return ((golden % 1).argsort().argsort().to(dtype) + 0.5) / count
