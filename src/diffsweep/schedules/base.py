r"""A noise schedule is the pair of functions alpha_t, sigma_t in :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`.

Here :math:`x_0` is clean data, :math:`\epsilon \sim N(0, I)` is noise, and t runs from 0 (data) to 1 (noise). The
signal-to-noise ratio :math:`\mathrm{SNR}(t) = \alpha_t^2 / \sigma_t^2` strictly decreases in t, so that its
logarithm, the log-SNR, names a noise level as well as t does. All else follows from alpha and sigma at two times: the
variance of a forward step, that of its posterior, and steps of any stride (:mod:`diffsweep.diffusion.process`).

A discrete schedule is given by a table at the times t = k / T, k = 0, ..., T, as in DDPM (:class:`DiscreteSchedule`);
a continuous one by closed forms (:mod:`diffsweep.schedules.continuous`).
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
    r"""A noise level: a time t with alpha and sigma of the schedule, :math:`x_t = \alpha x_0 + \sigma \epsilon`.

    Attributes:
        t: the time; during sampling a float64 scalar on the CPU.
        alpha, sigma: the values at t, tensors of its shape; during sampling, where the batch has one time, Python
            numbers.
    """

    t: Tensor
    alpha: Value
    sigma: Value

    @property
    def half_log_snr(self) -> float:
        r"""Return half the log-SNR, :math:`\log(\alpha / \sigma)`: inf where sigma is 0, -inf where alpha is 0."""
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf

    @property
    def ratio(self) -> float:
        r"""Return the noise-to-signal ratio :math:`\sigma / \alpha`, infinite where alpha is 0."""
        return float(self.sigma / self.alpha) if self.alpha > 0 else math.inf

    @property
    def angle(self) -> float:
        r"""Return :math:`\mathrm{atan2}(\sigma, \alpha)`: 0 for clean data, :math:`\pi / 2` for pure noise."""
        return math.atan2(self.sigma, self.alpha)

    @property
    def norm(self) -> float:
        r"""Return :math:`\sqrt{\alpha^2 + \sigma^2}`, which is 1 on variance-preserving schedules."""
        return math.hypot(self.alpha, self.sigma)


class Schedule(nn.Module, Part, ABC):
    """A module that maps times t in [0, 1] to alpha_t and sigma_t of ``x_t = alpha_t x_0 + sigma_t eps``.

    A subclass defines :meth:`forward`, :meth:`log_snr` and :meth:`time_of`.

    Attributes:
        num_steps: T, the number of steps of a discrete schedule; None for a continuous one.
        t_min, t_max: the ends of an interval on which the log-SNR is finite; training times lie in it, and so do the
            times of samplers that step in log-SNR.
        zero_terminal_snr: whether alpha is exactly 0 at t = 1, so that x_1 is pure noise.
        clean_at_zero: whether sigma is exactly 0 at t = 0; if not, samplers append a step from t = 0 to clean data.
        straight: whether x_t lies on the line from x_0 to eps, alpha_t = 1 - t and sigma_t = t, as of a flow.
        learned: whether the schedule has parameters that are trained with the model.
    """

    num_steps: int | None = None
    t_min: float = 0.0
    t_max: float = 1.0
    zero_terminal_snr: bool = False
    clean_at_zero: bool = True
    straight: bool = False
    learned: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._cache: dict[Hashable, Any] = {}

    @abstractmethod
    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``alpha_t, sigma_t`` at times t in [0, 1], each of the shape and dtype of t; a subclass defines it."""

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        r"""Return the log-SNR :math:`\log(\alpha_t^2 / \sigma_t^2)`, like ``t``; each subclass defines it.

        It strictly decreases in t. It is inf where sigma is 0, and -inf where alpha is 0.
        """

    @abstractmethod
    def time_of(self, log_snr: Tensor) -> Tensor:
        """Return the times at which the log-SNR has given values, like ``log_snr``; each subclass defines it.

        A value above the range of the schedule gives 0, and one below it gives 1.
        """

    def at(self, t: Tensor) -> Level[float]:
        """Return the noise level at one time, a float64 scalar on the CPU, with alpha and sigma as Python numbers."""
        return self.cached(("t", t.item()), lambda: self._level(t))

    def at_log_snr(self, log_snr: float) -> Level[float]:
        """Return the noise level that has a given log-SNR, as :meth:`at` does for a time.

        Its time is the one that :meth:`time_of` returns: 0 or 1 where the schedule does not reach the value. It is a
        float64 scalar on the CPU, and alpha and sigma are Python numbers.
        """
        return self.cached(
            ("log_snr", log_snr), lambda: self._level(self.time_of(torch.tensor(log_snr, dtype=torch.float64)))
        )

    def _level(self, t: Tensor) -> Level[float]:
        return Level(t, *(value.item() for value in self(t)))

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return ``make()``, from a cache if it has been called for the same ``key`` before.

        The result may depend on the key and this schedule alone, and is computed without gradients. A learned schedule
        changes, so nothing of it is cached. A sampler needs the same levels at each network call. On the cosine
        schedule the inputs of a network take 7 microseconds with the cache and 88 without, and a level at a given
        log-SNR 2 and 138; a whole DDIM step without its network takes 60.
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
        """Return the number that a network is given for the time ``t``, like ``t``: about 1000 t.

        It is 1000 (t - 1/T), at least 0, on a discrete schedule, and 1000 t on a continuous one. The public
        checkpoints number their T = 1000 steps from 0 and embed these numbers.
        """
        if self.num_steps is None:
            return 1000 * t
        return (1000 * (t - 1 / self.num_steps)).clamp(min=0)

    def log_snr_rate(self, t: Tensor) -> Tensor:
        """Return the derivative of the log-SNR by t, like ``t``, itself differentiable; continuous schedules only.

        Raises:
            ValueError: the schedule is discrete.
        """
        if self.num_steps is not None:
            raise ValueError("a discrete schedule has no rate in t: its log-SNR is given on a grid")
        with torch.enable_grad():
            t = t if t.requires_grad else t.detach().requires_grad_()
            (rate,) = torch.autograd.grad(self.log_snr(t).sum(), t, create_graph=True)
        return rate if torch.is_grad_enabled() else rate.detach()

    def time_at(self, u: Tensor) -> Tensor:
        """Map uniform numbers ``u`` in [0, 1) to uniform training times, of the same shape.

        The times are uniform over the grid 1/T, ..., 1 of a discrete schedule, in the order of u, and over (t_min,
        t_max] of a continuous one, against the order of u.
        """
        if self.num_steps is None:
            return self.t_min + (self.t_max - self.t_min) * (1 - u)
        return ((u * self.num_steps).floor() + 1) / self.num_steps

    def on_grid(self, t: Tensor) -> Tensor:
        """Map any times to training times, like ``t``: up to the next grid point if discrete, else into [t_min, t_max].

        The grid of a discrete schedule is 1/T, ..., 1; a time on it stays, up to rounding. A time below 1/T becomes
        1/T, and one above 1 becomes 1.
        """
        if self.num_steps is None:
            return t.clamp(self.t_min, self.t_max)
        slack = self.num_steps * torch.finfo(t.dtype).eps  # a time on the grid stays, however it was rounded
        return (t * self.num_steps - slack).ceil().clamp(1, self.num_steps) / self.num_steps


class Cell(NamedTuple):
    """The values of a discrete schedule at the last grid point k / T that is not after a time t, float64, like t.

    As a table it has an entry for each k = 0, ..., T. The angle is ``atan2(sigma, alpha)``, and ``next_angle`` is that
    at k + 1 (at k = T that at T).
    """

    alpha: Tensor
    sigma: Tensor
    log_snr: Tensor
    angle: Tensor
    next_angle: Tensor


class DiscreteSchedule(Schedule):
    r"""A schedule given by a table of :math:`\bar\alpha_k = \alpha_t^2` at the times :math:`t = k/T` (DDPM).

    In DDPM (Ho et al. 2020, arXiv:2006.11239) step ``k`` of ``T`` is ``t = k / T``, ``k = 1 .. T``, with
    :math:`\sigma_t^2 = 1 - \bar\alpha_k`; ``t = 0`` is clean data (alpha 1, sigma 0). At grid points the tabulated
    float64 values are returned exactly. Between grid points the angle ``atan2(sigma, alpha)`` is interpolated linearly:
    it is finite at both ends, where the log-SNR is not.

    Args:
        log_alpha_bar: float64, shape (T,), the logarithm of alpha_bar at k = 1 .. T, strictly decreasing.
        zero_terminal_snr: whether to rescale the table so that alpha is exactly 0 at k = T (:func:`zero_terminal`).

    Raises:
        ValueError: the table is to be rescaled and has one entry only.
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
        # Not a buffer: it is never trained, cast or saved, and is read on the CPU by samplers, on the GPU in training.
        self._tables = {angle.device: torch.stack(table)}  # (5, T + 1)
        self.t_min = 1 / self.num_steps
        self.t_max = 1 - 1 / self.num_steps if zero_terminal_snr else 1.0

    def _on(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            self._tables[device] = next(iter(self._tables.values())).to(device)
        return self._tables[device]

    def _cell(self, t: Tensor) -> tuple[Cell, Tensor]:
        """Return the cell of the grid that each time is in, and the fraction of the cell passed, float64 in [0, 1)."""
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
    r"""Rescale :math:`\alpha_k` so that the last one is exactly 0 and the first one is kept.

    The map is linear (Lin et al. 2023, arXiv:2305.08891, alg. 1):
    :math:`\alpha_k \leftarrow (\alpha_k - \alpha_T) \frac{\alpha_1}{\alpha_1 - \alpha_T}`.

    Args:
        log_alpha_bar: :math:`\log \alpha_k^2`, float64, shape (T,), T at least 2.

    Returns:
        the same logarithm of the rescaled alphas, float64, (T,); the last one is -inf.

    Raises:
        ValueError: T is 1.
    """
    if len(log_alpha_bar) < 2:
        raise ValueError("schedule.zero_terminal_snr needs schedule.num_steps of at least 2")
    alpha = torch.exp(log_alpha_bar.double() / 2)
    return 2 * torch.log((alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1])))
