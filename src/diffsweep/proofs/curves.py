"""The curves of a sampler's errors by network evaluations, as papers plot them."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from diffsweep.diffusion import Noise, counting
from diffsweep.proofs.base import Check, Curve, Subject, proof
from diffsweep.proofs.data import COVARIANCE, MEAN, mixture_at_start
from diffsweep.proofs.distances import wasserstein
from diffsweep.proofs.moments import moments
from diffsweep.samplers import ODE

COUNTS = (4, 6, 8, 10, 14, 20, 30, 50, 100, 200)  # numbers of steps


@proof(place=90)
def curves(subject: Subject) -> Iterator[Check]:
    """Measure the sampler's errors for several numbers of steps, from 4 to 200, and add them to ``subject.curves``.

    Of an adaptive solver the tolerance varies instead, from 1e-2 to 1e-7. The curve ``wasserstein`` has the distances
    of Gaussian samples from the data, divided by the standard deviation of the data; ``solution``, of a deterministic
    solver, the mean distances from the solution of the probability-flow ODE, for a mixture of Gaussians. Both are over
    network evaluations of a sample. The iterator yields no check.
    """
    sampler = subject.sampler
    if sampler.tolerance is not None:
        settings: list[dict[str, Any]] = [{"tolerance": 10.0**-k} for k in range(2, 8)]
    else:
        counts = [steps for steps in COUNTS if subject.exists(steps)] or [sampler.steps]
        settings = [{"steps": steps} for steps in counts]
    x, denoiser = mixture_at_start(subject.schedule, 64, sampler.start), subject.mixture
    size = math.sqrt(float(COVARIANCE.trace()))
    reference = ODE(tolerance=1e-9, start=sampler.start, stop=sampler.stop, clip="none")
    exact = reference(denoiser, x) if sampler.order is not None else None
    of_data, of_solution = Curve([], []), Curve([], [])
    for changes in settings:
        changed = subject.sampler_with(**changes, clip="none")
        with counting(denoiser) as count:
            ours = changed(denoiser, x, noise=Noise(2, torch.arange(len(x))))
        of_data.evaluations.append(count.rows / len(x))
        of_data.errors.append(
            wasserstein(*moments(subject.gaussian, changed, MEAN, COVARIANCE), MEAN, COVARIANCE) / size
        )
        if exact is not None:
            of_solution.evaluations.append(count.rows / len(x))
            of_solution.errors.append(float((ours - exact).norm(dim=1).mean()))
    subject.curves["wasserstein"] = of_data
    if exact is not None:
        subject.curves["solution"] = of_solution
    yield from ()
