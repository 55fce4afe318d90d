"""The proof of the order of convergence: the error of a solver of order p falls like n^-p with n steps."""

from collections.abc import Iterator
from typing import Any

import torch

from diffsweep.proofs.base import Check, Curve, Subject, proof
from diffsweep.proofs.data import mixture_at_start
from diffsweep.proofs.distances import slope
from diffsweep.samplers import ODE

HALF_LOG_SNR = (-5.0, 4.0)  # the range of log(alpha / sigma) on which orders are measured
COUNTS = (8, 16, 32, 64, 128, 256, 512)  # numbers of steps whose errors are compared
ROUNDING = 1e-11  # errors below this are rounding errors


@proof(place=20)
def order(subject: Subject) -> Iterator[Check]:
    """Yield a check of a deterministic solver's order of convergence, measured on a mixture of Gaussians.

    The order is minus the slope of the log of the mean error over the log of the number of steps, and must be at least
    that which the solver claims, less 0.2. The steps, 8 to 512, are even in log-SNR, without clipping; log(alpha /
    sigma) ranges from -5 to 4, or over the part of it that the schedule has. Of an adaptive solver the slope of the log
    of the error over the log of the tolerance must be at least 0.8. A stochastic sampler has no check.
    """
    sampler, schedule = subject.sampler, subject.schedule
    if sampler.order is None:
        return
    ends = schedule.log_snr(torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64)) / 2
    levels = torch.stack([ends[0].clamp(min=HALF_LOG_SNR[0]), ends[1].clamp(max=HALF_LOG_SNR[1])])
    start, stop = schedule.time_of(2 * levels).tolist()
    if start <= stop:  # a schedule of one step has no range
        return
    settings = {"start": start, "stop": stop, "spacing": "log_snr", "clip": "none"}
    x, denoiser = mixture_at_start(schedule, 64, start), subject.mixture
    exact = ODE(tolerance=1e-12, start=start, stop=stop, clip="none")(denoiser, x)

    def error(**changes: Any) -> float:
        ours = subject.sampler_with(**settings, **changes)(denoiser, x)
        return float((ours - exact).norm(dim=1).mean())

    if sampler.tolerance is not None:
        tolerances = [10.0**-k for k in range(3, 10)]
        errors = [error(steps=1, tolerance=tolerance) for tolerance in tolerances]
        yield Check("error follows the tolerance: slope", slope(tolerances, errors), least=0.8)
        return
    curve = Curve([], [])
    for steps in COUNTS:
        if (reached := error(steps=steps)) < ROUNDING:
            break
        curve.evaluations.append(steps)
        curve.errors.append(reached)
    subject.curves["order"] = curve
    measured = -slope(curve.evaluations[-3:], curve.errors[-3:])
    yield Check(f"order of convergence ({sampler.order})", measured, least=sampler.order - 0.2)
