"""The proof of samples: exact moments of Gaussian samples, and the distance of a mixture's samples to the data."""

import math
from collections.abc import Iterator

import torch

from diffsweep.diffusion import Noise
from diffsweep.proofs.base import Check, Subject, proof
from diffsweep.proofs.data import COVARIANCE, MEAN, exact_mixture, mixture_at_start, mixture_at_stop
from diffsweep.proofs.distances import sliced_wasserstein, wasserstein
from diffsweep.proofs.moments import moments


@proof(place=30)
def samples(subject: Subject) -> Iterator[Check]:
    """Yield checks of samples of a Gaussian and of a mixture of Gaussians in the plane against the data.

    Of Gaussian samples the exact mean, covariance and 2-Wasserstein distance are compared, without clipping; of 4096
    samples of the mixture the sliced 2-Wasserstein distance, with the sampler's own clipping. Samples of many steps
    must agree with the data; with fewer steps the errors are only reported: see :meth:`Subject.trials`. The last check
    reports the distance between two sets of true samples.
    """
    schedule, sampler, size = subject.schedule, subject.sampler, math.sqrt(float(COVARIANCE.trace()))
    for trial in subject.trials(clip="none"):
        most = 0.03 if trial.required else None
        mean, covariance = moments(subject.gaussian, trial.sampler, MEAN, COVARIANCE)
        yield Check(f"{trial.label}mean, error / std", float((mean - MEAN).norm()) / size, most=most)
        yield Check(
            f"{trial.label}covariance, relative error",
            float((covariance - COVARIANCE).norm() / COVARIANCE.norm()),
            most=None if most is None else 2 * most,
        )
        distance = wasserstein(mean, covariance, MEAN, COVARIANCE)
        yield Check(f"{trial.label}Wasserstein distance, Gaussian / std", distance / size, most=most)
    x = mixture_at_start(schedule, 4096, sampler.start)
    noise = Noise(1, torch.arange(len(x)))
    data = exact_mixture(schedule)
    generator = torch.Generator().manual_seed(0)
    truth, other = (mixture_at_stop(schedule, data.sample(len(x), generator), sampler.stop) for _ in range(2))
    scale, floor = float(truth.std(0).norm()), sliced_wasserstein(truth, other)
    for trial in subject.trials():
        ours = trial.sampler(subject.mixture, x, noise=noise)
        distance = sliced_wasserstein(ours, truth) / scale
        most = 0.02 + 2 * floor / scale if trial.required else None
        yield Check(f"{trial.label}Wasserstein distance, mixture / std", distance, most=most)
    yield Check("  the same between two sets of true samples", floor / scale)
