"""Proofs with Gaussian clips: completed from known frames, and under noise that frames share."""

import math
from collections.abc import Iterator

import torch

from diffsweep.diffusion import Frames
from diffsweep.guidance import Guidance, RePaint, guidances_of
from diffsweep.proofs.base import Check, Subject, proof
from diffsweep.proofs.data import CLIP_COVARIANCE, CLIP_KNOWN, CLIP_MEAN, CLIP_VALUES
from diffsweep.proofs.given import Given
from diffsweep.proofs.moments import moments


@proof(place=70)
def completed(subject: Subject) -> Iterator[Check]:
    """Yield checks of Gaussian clips, sampled given their first and last frame, against the conditional Gaussian.

    Their mean and covariance are computed exactly and compared with those of the data given these two frames. The proof
    applies to a single guidance that accepts a measurement, such as reconstruction guidance; for others it yields
    nothing. Where the guidance is exact on Gaussian data and the order of the solver is above 1, both errors of samples
    of 500 or more steps must be at most 0.02; otherwise they are only reported.
    """
    guidance = subject.guided
    if not isinstance(guidance, Guidance) or "measurement" not in guidance.provides or len(guidances_of(guidance)) > 1:
        return
    # RePaint repeats the way, so it is measured with the chosen number of steps
    trial, a = subject.trials(clip="none")[0 if isinstance(guidance, RePaint) else -1], CLIP_KNOWN
    gain = torch.linalg.solve(CLIP_COVARIANCE[a][:, a], CLIP_COVARIANCE[a][:, ~a]).T
    mean = torch.where(a, CLIP_VALUES, CLIP_MEAN)
    mean[~a] += gain @ (CLIP_VALUES - CLIP_MEAN)[a]
    covariance = torch.zeros_like(CLIP_COVARIANCE)
    covariance[torch.outer(~a, ~a)] = (CLIP_COVARIANCE[~a][:, ~a] - gain @ CLIP_COVARIANCE[a][:, ~a]).flatten()
    of_noise = subject.noise.covariance(len(mean))
    denoiser = subject.guidance(subject.clips, times=subject.sampler.times(subject.schedule))
    given = Given(denoiser, a, CLIP_VALUES, Frames, shape=(1, len(a), 1, 1))
    ours = moments(given, trial.sampler, mean, covariance, of_noise)
    exact = guidance.exact_on_gaussians and (trial.sampler.order or 0) > 1
    most = 0.02 if exact and trial.required else None
    label = f"{trial.label}known frames: "
    size = math.sqrt(float(covariance.trace()))
    yield Check(f"{label}mean, error / std", float((ours[0] - mean).norm()) / size, most=most)
    error = float((ours[1] - covariance).norm() / covariance.norm())
    yield Check(f"{label}covariance, relative error", error, most=most)


@proof(place=75)
def clips_of_shared_noise(subject: Subject) -> Iterator[Check]:
    """Yield checks of the exact mean and covariance of sampled Gaussian clips against those of the data.

    It applies where the chosen noise of clips is correlated over frames, and yields nothing otherwise.
    """
    if not subject.noise.correlated:
        return
    of_noise, size = subject.noise.covariance(len(CLIP_MEAN)), math.sqrt(float(CLIP_COVARIANCE.trace()))
    for trial in subject.trials(clip="none"):
        most = 0.03 if trial.required else None
        label = f"{trial.label}clips of shared noise: "
        mean, covariance = moments(subject.clips, trial.sampler, CLIP_MEAN, CLIP_COVARIANCE, of_noise)
        yield Check(f"{label}mean, error / std", float((mean - CLIP_MEAN).norm()) / size, most=most)
        error = float((covariance - CLIP_COVARIANCE).norm() / CLIP_COVARIANCE.norm())
        yield Check(f"{label}covariance, relative error", error, most=None if most is None else 2 * most)
