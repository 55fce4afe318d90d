r"""The times :math:`t_0 > t_1 > ... > t_K` between which a sampler takes its K steps, spaced in one of six ways.

==============  ==========================================================================================
spacing         the times are equally spaced in
==============  ==========================================================================================
``uniform``     t
``trailing``    k of the grid t = k / T, counted back from the start
``leading``     k of the grid, counted up from the first step after the stop
``quadratic``   :math:`\sqrt{t - t_K}`
``log_snr``     :math:`\log(\alpha_t^2 / \sigma_t^2)`
``karras``      :math:`(\sigma_t / \alpha_t)^{1/7}`
==============  ==========================================================================================

Each is a function ``(schedule, steps, start, stop) -> times``, float64, (steps + 1,). :func:`spaced_times`, which
samplers and the variational bound call, chooses one and adds the step to clean data where sigma(0) is not 0.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffsweep.schedules import Schedule


def uniform(schedule: Schedule, steps: int, start: float, stop: float) -> Tensor:
    """Return ``steps + 1`` times from ``start`` to ``stop`` with equal steps in t, float64.

    Unlike those of :func:`trailing` and :func:`leading`, they are not rounded to the grid of a discrete schedule, which
    is defined between its grid points too.
    """
    return torch.linspace(start, stop, steps + 1, dtype=torch.float64)


def quadratic(schedule: Schedule, steps: int, start: float, stop: float) -> Tensor:
    """Return ``t = stop + (start - stop) u^2`` for u from 1 to 0: denser towards clean data.

    The ``steps + 1`` times are float64 (DDIM, arXiv:2010.02502, app. D.2).
    """
    u = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return stop + (start - stop) * u**2


def trailing(schedule: Schedule, steps: int, start: float, stop: float) -> Tensor:
    """Return times at equal strides on the grid k / T, counted back from ``start`` and rounded to the grid.

    The ``steps + 1`` times from ``start`` to ``stop`` are float64 (Lin et al. 2023, arXiv:2305.08891).

    Raises:
        ValueError: the schedule is continuous, or its grid has too few steps.
    """
    num_steps = _grid_steps(schedule, "trailing", steps, start, stop)
    return (uniform(schedule, steps, start, stop) * num_steps).round() / num_steps


def leading(schedule: Schedule, steps: int, start: float, stop: float) -> Tensor:
    """Return times at equal whole strides on the grid k / T, counted up from the first step after ``stop``.

    The ``steps + 1`` times are float64 and decrease to ``stop``. The first one lies below ``start`` where the strides
    do not reach it. A stride is the number of noisy levels from ``stop`` to ``start`` over ``steps``, rounded down, so
    that it is T // steps with ``stop`` 0 and with ``stop`` 1 / T alike, as in the schedulers of Stable Diffusion.

    Raises:
        ValueError: the schedule is continuous, or its grid has too few steps.
    """
    num_steps = _grid_steps(schedule, "leading", steps, start, stop)
    first, last = round(stop * num_steps), round(start * num_steps)
    k = first + 1 + torch.arange(steps - 1, -1, -1, dtype=torch.float64) * ((last - max(first - 1, 0)) // steps)
    return torch.cat([k, k.new_tensor([first])]) / num_steps


def log_snr(schedule: Schedule, steps: int, start: float, stop: float) -> Tensor:
    """Return ``steps + 1`` times from ``start`` to ``stop`` with equal steps in log-SNR (DPM-Solver, arXiv:2206.00927).

    An end of [stop, start] at which the log-SNR is infinite is reached in a step of its own. The times are float64.
    """
    return _finite(schedule, steps, start, stop, lambda high, low, u: high + (low - high) * u)


def karras(schedule: Schedule, steps: int, start: float, stop: float) -> Tensor:
    """Return ``steps + 1`` times with equal steps in ``(sigma / alpha)^(1 / 7)`` (EDM, arXiv:2206.00364, eq. 5).

    They lead from ``start`` to ``stop``, float64. An end of [stop, start] at which the log-SNR is infinite is reached
    in a step of its own.
    """

    def spaced(high: Tensor, low: Tensor, u: Tensor) -> Tensor:
        root_high, root_low = torch.exp(-high / 14), torch.exp(-low / 14)  # sigma / alpha = exp(-log_snr / 2)
        return -14 * torch.log(root_high + (root_low - root_high) * u)

    return _finite(schedule, steps, start, stop, spaced)


SPACINGS: dict[str, Callable[[Schedule, int, float, float], Tensor]] = {
    spacing.__name__: spacing for spacing in (uniform, trailing, leading, quadratic, log_snr, karras)
}


def spaced_times(schedule: Schedule, spacing: str, steps: int, start: float = 1.0, stop: float = 0.0) -> Tensor:
    """Return the times of a trajectory, decreasing from start to stop: float64 on the CPU, (steps + 1,).

    If the schedule's sigma(0) is not 0 (VE, learned), a trajectory to 0 needs one more step, from t = 0 to clean data:
    its times end with two zeros.

    Args:
        schedule: the noise schedule, alpha_t and sigma_t.
        spacing: ``uniform``, ``trailing``, ``leading``, ``quadratic``, ``log_snr`` or ``karras``, the functions in
            :data:`SPACINGS`.
        steps: the number of steps, the one to clean data included.
        start, stop: the first and the last time.

    Raises:
        ValueError: ``trailing`` or ``leading`` on a continuous schedule, or with more steps than its grid has.
    """
    spaced = SPACINGS[spacing]
    if schedule.clean_at_zero or stop > 0:
        return spaced(schedule, steps, start, stop)
    if steps == 1:
        return torch.tensor([start, 0.0], dtype=torch.float64)
    times = spaced(schedule, steps - 1, start, 0.0)
    return torch.cat([times, times.new_zeros(1)])


def _grid_steps(schedule: Schedule, name: str, steps: int, start: float, stop: float) -> int:
    """Return T of a discrete schedule.

    Raises:
        ValueError: the schedule is continuous, or its grid has too few steps between the ends.
    """
    if schedule.num_steps is None:
        raise ValueError(f"sampler.spacing={name} needs a discrete schedule; use uniform, log_snr or karras")
    if steps > round(start * schedule.num_steps) - round(stop * schedule.num_steps):
        raise ValueError(f"sampler.spacing={name} cannot place {steps} steps on a grid of {schedule.num_steps}")
    return schedule.num_steps


def _finite(
    schedule: Schedule, steps: int, start: float, stop: float, spaced: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Return times spaced in log-SNR; an end at which it is infinite is reached in a step of its own."""
    first, last = min(start, schedule.t_max), max(stop, schedule.t_min)
    before, after = ([start] if start > first else []), ([stop] if stop < last else [])
    count = steps + 1 - len(before) - len(after)
    if count < 2:
        return uniform(schedule, steps, start, stop)
    ends = schedule.log_snr(torch.tensor([first, last], dtype=torch.float64))
    inner = schedule.time_of(spaced(ends[0], ends[1], torch.linspace(0, 1, count, dtype=torch.float64)))
    inner[0], inner[-1] = first, last
    return torch.cat([inner.new_tensor(before), inner, inner.new_tensor(after)])
