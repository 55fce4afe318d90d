r"""Noise schedules: the pair of functions of the Gaussian perturbation

.. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad t \in [0, 1], \quad \epsilon \sim N(0, I).

Everything else (beta, the posterior variance, strided steps) follows from ``(alpha, sigma)`` at two times.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import NamedTuple

from diffsweep.capabilities import Part

T = TypeVar("T")
Value = TypeVar("Value", Tensor, float)


class Level(NamedTuple, Generic[Value]):
    r"""A noise level: a time and what the schedule is there, :math:`x_t = \alpha x_0 + \sigma \epsilon`.

    Attributes:
        t: the time; within a walk a float64 scalar on the CPU.
        alpha, sigma: the schedule at t, tensors of its shape; within a walk, which has one time for the batch, numbers.
    """

    t: Tensor
    alpha: Value
    sigma: Value

    @property
    def half_log_snr(self) -> float:
        r""":math:`\lambda = \log(\alpha / \sigma)`, infinite where one of them is 0."""
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf

    @property
    def ratio(self) -> float:
        r""":math:`\sigma / \alpha`, infinite where no signal is left."""
        return float(self.sigma / self.alpha) if self.alpha > 0 else math.inf

    @property
    def angle(self) -> float:
        r""":math:`\mathrm{atan2}(\sigma, \alpha)`, finite at both ends."""
        return math.atan2(self.sigma, self.alpha)

    @property
    def norm(self) -> float:
        r""":math:`\sqrt{\alpha^2 + \sigma^2}`."""
        return math.hypot(self.alpha, self.sigma)


class Schedule(nn.Module, Part, ABC):
    """The pair ``alpha_t, sigma_t``. A subclass defines :meth:`forward`, :meth:`log_snr` and :meth:`time_of`.

    Attributes:
        num_steps: T of a discrete schedule, None for a continuous one.
        t_min, t_max: an interval on which the log-SNR is finite; training times and those of steps in log-SNR lie there.
        zero_terminal_snr: whether alpha is exactly 0 at t = 1.
        clean_at_zero: whether sigma is exactly 0 at t = 0; where it is not, samplers append a step to clean data.
        learned: whether it has parameters, trained with the model.
    """

    num_steps: int | None = None
    t_min: float = 0.0
    t_max: float = 1.0
    zero_terminal_snr: bool = False
    clean_at_zero: bool = True
    learned: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._cache: dict[Hashable, Any] = {}

    @abstractmethod
    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``alpha_t, sigma_t`` at ``t`` in [0, 1]; any shape, and the same shape and dtype back."""

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        r""":math:`\log(\alpha_t^2 / \sigma_t^2)`, strictly decreasing in ``t``; infinite where sigma or alpha is 0."""

    @abstractmethod
    def time_of(self, log_snr: Tensor) -> Tensor:
        """The inverse of :meth:`log_snr`; values beyond its range give 0 or 1."""

    def at(self, t: Tensor) -> Level[float]:
        """Return the level at one time, a float64 scalar on the CPU, as numbers."""
        return self.cached(("t", t.item()), lambda: self._level(t))

    def at_log_snr(self, log_snr: float) -> Level[float]:
        """Return the level at which the log-SNR has a value; its time is that of :meth:`time_of`."""
        return self.cached(
            ("log_snr", log_snr), lambda: self._level(self.time_of(torch.tensor(log_snr, dtype=torch.float64)))
        )

    def _level(self, t: Tensor) -> Level[float]:
        return Level(t, *(value.item() for value in self(t)))

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what ``make`` gives, numbers that follow from the key and this schedule; remembered, unless the schedule is learned.

        Walks ask for the same levels at each network call. On the cosine schedule what a network is given takes 7 microseconds in place of 88,
        and a level at a log-SNR 2 in place of 138, where all of a DDIM step but the network takes 60.
        """
        if key in self._cache:
            return self._cache[key]
        with torch.no_grad():
            made = make()
        if not self.learned:
            if len(self._cache) >= 10_000:
                self._cache.clear()
            self._cache[key] = made
        return made

    def embedded_time(self, t: Tensor) -> Tensor:
        """The time that a network is told: 1000 (t - 1/T), at least 0, on a discrete schedule; 1000 t on a continuous one.

        The public checkpoints count steps from 0 and embed them so.
        """
        if self.num_steps is None:
            return 1000 * t
        return (1000 * (t - 1 / self.num_steps)).clamp(min=0)

    def log_snr_rate(self, t: Tensor) -> Tensor:
        r""":math:`d \log\mathrm{SNR} / dt` of a continuous schedule, at ``t`` of any shape; differentiable itself."""
        if self.num_steps is not None:
            raise ValueError("a discrete schedule has no rate in t: its log-SNR is given on a grid")
        with torch.enable_grad():
            t = t if t.requires_grad else t.detach().requires_grad_()
            (rate,) = torch.autograd.grad(self.log_snr(t).sum(), t, create_graph=True)
        return rate if torch.is_grad_enabled() else rate.detach()

    def time_at(self, u: Tensor) -> Tensor:
        """Map ``u`` in [0, 1), uniform, to a training time: uniform over the grid, or over (0, 1] where continuous."""
        if self.num_steps is None:
            return self.t_min + (self.t_max - self.t_min) * (1 - u)
        return ((u * self.num_steps).floor() + 1) / self.num_steps

    def on_grid(self, t: Tensor) -> Tensor:
        """Any times as training times: up to the grid of a discrete schedule, into [t_min, t_max] of a continuous one."""
        if self.num_steps is None:
            return t.clamp(self.t_min, self.t_max)
        slack = self.num_steps * torch.finfo(t.dtype).eps  # a time on the grid stays, however it was rounded
        return (t * self.num_steps - slack).ceil().clamp(1, self.num_steps) / self.num_steps


class Cell(NamedTuple):
    """What a discrete schedule is at the grid point k before a time, float64, of the shape of the time; a table of it has k = 0 .. T."""

    alpha: Tensor
    sigma: Tensor
    log_snr: Tensor
    angle: Tensor
    next_angle: Tensor  # at k + 1


class DiscreteSchedule(Schedule):
    r"""A schedule given by its :math:`\bar\alpha_k` at :math:`t = k/T`, built in float64 (Ho et al. 2020, arXiv:2006.11239).

    Step ``k`` of ``T`` is ``t = k / T``, ``k = 1 .. T``; ``t = 0`` is clean data (alpha 1, sigma 0). On the grid the
    tabulated values are returned exactly. Between grid points the angle ``atan2(sigma, alpha)`` is interpolated
    linearly: it is finite at both ends, where the log-SNR is not.

    Args:
        log_alpha_bar: float64, shape (T,), the log of the squared signal level at k = 1 .. T, strictly decreasing.
        zero_terminal_snr: rescale it so that alpha is exactly 0 at k = T (:func:`zero_terminal`).
    """

    provides = frozenset({"grid"})

    def __init__(self, log_alpha_bar: Tensor, zero_terminal_snr: bool = False) -> None:
        super().__init__()
        self.num_steps: int = len(log_alpha_bar)
        self.zero_terminal_snr = zero_terminal_snr
        if zero_terminal_snr:
            log_alpha_bar = zero_terminal(log_alpha_bar)
        log_alpha_bar = torch.cat([torch.zeros(1, dtype=torch.float64), log_alpha_bar.double()])  # (T + 1,)
        log_one_minus = torch.log(-torch.expm1(log_alpha_bar))
        alpha, sigma = torch.exp(log_alpha_bar / 2), torch.exp(log_one_minus / 2)
        angle = torch.atan2(sigma, alpha)
        table = Cell(alpha, sigma, log_alpha_bar - log_one_minus, angle, torch.cat([angle[1:], angle[-1:]]))
        # Not a buffer: it is never trained, cast or saved, and samplers ask on the CPU while training asks on the GPU.
        self._tables = {angle.device: torch.stack(table)}  # (5, T + 1)
        self.t_min = 1 / self.num_steps
        self.t_max = 1 - 1 / self.num_steps if zero_terminal_snr else 1.0

    def _on(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            self._tables[device] = next(iter(self._tables.values())).to(device)
        return self._tables[device]

    def _cell(self, t: Tensor) -> tuple[Cell, Tensor]:
        """The cell of times ``t``, and the fraction within it, float64."""
        position = (t.double() * self.num_steps).clamp(0, self.num_steps)
        k = position.floor()
        return Cell(*self._on(t.device)[:, k.long()]), position - k

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        cell, fraction = self._cell(t)
        angle = torch.lerp(cell.angle, cell.next_angle, fraction)
        on_grid = fraction == 0
        alpha = torch.where(on_grid, cell.alpha, angle.cos())
        sigma = torch.where(on_grid, cell.sigma, angle.sin())
        return alpha.to(t.dtype), sigma.to(t.dtype)

    def log_snr(self, t: Tensor) -> Tensor:
        cell, fraction = self._cell(t)
        between = -2 * torch.lerp(cell.angle, cell.next_angle, fraction).tan().log()
        return torch.where(fraction == 0, cell.log_snr, between).to(t.dtype)

    def time_of(self, log_snr: Tensor) -> Tensor:
        angles = Cell(*self._on(log_snr.device)).angle
        angle = torch.atan(torch.exp(-log_snr.double() / 2)).clamp(max=angles[-1])
        k = (torch.searchsorted(angles, angle, right=True) - 1).clamp(0, self.num_steps - 1)
        fraction = (angle - angles[k]) / (angles[k + 1] - angles[k])
        return ((k + fraction.clamp(0, 1)) / self.num_steps).to(log_snr.dtype)


def zero_terminal(log_alpha_bar: Tensor) -> Tensor:
    r"""Shift and scale :math:`\alpha_k` linearly so that the last is exactly 0 and the first stays (Lin et al. 2023,
    arXiv:2305.08891, alg. 1): :math:`\alpha_k \leftarrow (\alpha_k - \alpha_T) \frac{\alpha_1}{\alpha_1 - \alpha_T}`.

    Args:
        log_alpha_bar: float64, shape (T,), T at least 2.
    """
    if len(log_alpha_bar) < 2:
        raise ValueError("schedule.zero_terminal_snr needs schedule.num_steps of at least 2")
    alpha = torch.exp(log_alpha_bar.double() / 2)
    return 2 * torch.log((alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1])))
