"""How the times of a walk lie: functions ``(schedule, steps, start, stop) -> times``, float64, shape (steps + 1,).

:func:`walk_times` is what samplers and the bound's chains ask; it adds the step to clean data.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffsweep.schedules import Schedule


def uniform(schedule: Schedule, steps: int, start: float, stop: float) -> Tensor:
    """Equal steps in t."""
    return torch.linspace(start, stop, steps + 1, dtype=torch.float64)


def quadratic(schedule: Schedule, steps: int, start: float, stop: float) -> Tensor:
    """``t = stop + (start - stop) u^2``: denser towards clean data (DDIM, arXiv:2010.02502, app. D.2)."""
    u = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return stop + (start - stop) * u**2


def trailing(schedule: Schedule, steps: int, start: float, stop: float) -> Tensor:
    """Equal strides on the grid, counted back from ``start``, rounded (Lin et al. 2023, arXiv:2305.08891)."""
    num_steps = _grid_steps(schedule, "trailing", steps, start, stop)
    return (uniform(schedule, steps, start, stop) * num_steps).round() / num_steps


def leading(schedule: Schedule, steps: int, start: float, stop: float) -> Tensor:
    """Equal whole strides on the grid, counted up from the first step after ``stop``: the walk starts below ``start``."""
    num_steps = _grid_steps(schedule, "leading", steps, start, stop)
    first, last = round(stop * num_steps), round(start * num_steps)
    k = first + 1 + torch.arange(steps - 1, -1, -1, dtype=torch.float64) * ((last - first) // steps)
    return torch.cat([k, k.new_tensor([first])]) / num_steps


def log_snr(schedule: Schedule, steps: int, start: float, stop: float) -> Tensor:
    """Equal steps in log-SNR (DPM-Solver, arXiv:2206.00927); where it is infinite, ``stop`` is one step of its own."""
    return _finite(schedule, steps, start, stop, lambda high, low, u: high + (low - high) * u)


def karras(schedule: Schedule, steps: int, start: float, stop: float) -> Tensor:
    """Equal steps in ``(sigma / alpha)^(1 / 7)`` (EDM, arXiv:2206.00364, eq. 5)."""

    def spaced(high: Tensor, low: Tensor, u: Tensor) -> Tensor:
        root_high, root_low = torch.exp(-high / 14), torch.exp(-low / 14)  # sigma / alpha = exp(-log_snr / 2)
        return -14 * torch.log(root_high + (root_low - root_high) * u)

    return _finite(schedule, steps, start, stop, spaced)


SPACINGS: dict[str, Callable[[Schedule, int, float, float], Tensor]] = {
    spacing.__name__: spacing for spacing in (uniform, trailing, leading, quadratic, log_snr, karras)
}


def spaced_times(schedule: Schedule, spacing: str, steps: int, start: float = 1.0, stop: float = 0.0) -> Tensor:
    """Return the times of a walk, decreasing from start to stop: float64 on the CPU, shape (steps + 1,).

    Where sigma(0) is not 0 (VE, learned) a walk to 0 has one step more to go, from there to clean data: its times end with two zeros.
    """
    spaced = SPACINGS[spacing]
    if schedule.clean_at_zero or stop > 0:
        return spaced(schedule, steps, start, stop)
    if steps == 1:
        return torch.tensor([start, 0.0], dtype=torch.float64)
    times = spaced(schedule, steps - 1, start, 0.0)
    return torch.cat([times, times.new_zeros(1)])


def _grid_steps(schedule: Schedule, name: str, steps: int, start: float, stop: float) -> int:
    if schedule.num_steps is None:
        raise ValueError(f"sampler.spacing={name} needs a discrete schedule; use uniform, log_snr or karras")
    if steps > round(start * schedule.num_steps) - round(stop * schedule.num_steps):
        raise ValueError(f"sampler.spacing={name} cannot place {steps} steps on a grid of {schedule.num_steps}")
    return schedule.num_steps


def _finite(
    schedule: Schedule, steps: int, start: float, stop: float, spaced: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Times spaced in log-SNR between the ends where it is finite; an infinite end is reached in a step of its own."""
    first, last = min(start, schedule.t_max), max(stop, schedule.t_min)
    before, after = ([start] if start > first else []), ([stop] if stop < last else [])
    count = steps + 1 - len(before) - len(after)
    if count < 2:
        return uniform(schedule, steps, start, stop)
    ends = schedule.log_snr(torch.tensor([first, last], dtype=torch.float64))
    inner = schedule.time_of(spaced(ends[0], ends[1], torch.linspace(0, 1, count, dtype=torch.float64)))
    inner[0], inner[-1] = first, last
    return torch.cat([inner.new_tensor(before), inner, inner.new_tensor(after)])
