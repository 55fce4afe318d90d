r"""Proofs of inpainting: the distribution of the unknown numbers of a sample given the known ones, in closed form.

For Gaussian data with known numbers a and unknown ones b,

.. math:: E[x^b | x^a] = \mu^b + C^{ba} (C^{aa})^{-1} (x^a - \mu^a), \quad
    \mathrm{Cov}[x^b | x^a] = C^{bb} - C^{ba} (C^{aa})^{-1} C^{ab},

and for a mixture each component has these, with weights proportional to :math:`w_k \, p_k(x^a)`.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diffsweep.diffusion import Denoiser, Noise, PixelMask
from diffsweep.guidance import Guidance, Reconstruction, RePaint, Replacement, guidances_of
from diffsweep.proofs.base import Check, Curve, Subject, proof
from diffsweep.proofs.data import COVARIANCE, MEAN, MEANS, ROOTS, WEIGHTS, mixture_at_start
from diffsweep.proofs.given import Given
from diffsweep.proofs.moments import moments
from diffsweep.samplers import Sampler

KNOWN = torch.tensor([True, False])  # of the two numbers of a sample in the plane
VALUE, BETWEEN = 0.6, 0.2  # of the known number: for the Gaussian, and, between two components, for the mixture
STEPS, PASSAGES = 24, (1, 2, 4, 8, 16)  # steps of the sampler, and how often RePaint passes them
REFINED = ((12, 2), (24, 4), (48, 8), (96, 16))  # steps and passages that are refined together
COUNT = 4096  # samples of the mixture


@proof(place=72)
def inpainted(subject: Subject) -> Iterator[Check]:
    """Yield checks of samples in the plane whose first number is known, against the distribution of the second.

    It is for tasks of images with a mask, and a single guidance that accepts a measurement; otherwise it yields
    nothing. Of the Gaussian the mean and variance of samples are computed exactly; of 4096 samples of the mixture, with
    two components near the known value, the 2-Wasserstein distance of the second number. Where the guidance is exact on
    Gaussian data and the solver's order is above 1, samples of 500 or more steps must agree to 0.02. Replacement and
    others are biased, and their errors are reported.

    Of RePaint the errors are reported for the chosen jump length and for single steps, by the number of passages. With
    16 passages of single steps the error of the mean must be at most half of that with one, and the distance of the
    mixture not above it. Passages alone leave the error that the solver makes in each step, which they repeat: under
    solvers of first order, such as DDIM, the variance falls short the more often a part is passed, since each of their
    large steps at low noise contracts too much. So a second curve doubles steps and passages together: from 12 steps
    and 2 passages to 96 and 16 the errors of mean and variance must fall to 0.3 of what they were if the solver's order
    is above 1.
    For comparison it reports the errors of replacement, and of reconstruction guidance with ``weight=covariance``.
    ``inpainting.png`` shows the curves.
    """
    guidance = subject.guided
    if getattr(subject.task, "masks", None) is None or not isinstance(guidance, Guidance):
        return
    if "measurement" not in guidance.provides or len(guidances_of(guidance)) > 1:
        return
    times = subject.sampler.times(subject.schedule)
    if not isinstance(guidance, RePaint):
        trial = subject.trials(clip="none")[-1]
        exact = guidance.exact_on_gaussians and (trial.sampler.order or 0) > 1 and trial.required
        label = f"{trial.label}inpainting: "
        guided = subject.guidance(subject.gaussian, times=times)
        yield from _checks(label, *_of_gaussian(guided, trial.sampler), most=0.02 if exact else None)
        few = subject.sampler_with(clip="none")
        distance, floor = _of_mixture(subject.guidance(subject.mixture, times=times), few)
        yield Check(f"{few.steps} steps, inpainting: distance, mixture / std", distance)
        yield Check("  the same between two sets of true samples", floor)
        return
    sampler = subject.sampler_with(steps=STEPS, clip="none")
    lengths = sorted({1, min(guidance.jump_length, STEPS - 1)}, reverse=True)
    for length in lengths:
        found = []
        for passages in PASSAGES:
            label = f"RePaint, {length} of {STEPS} steps at a time, {passages} times: "
            mean, variance = _of_gaussian(RePaint(subject.gaussian, length, passages), sampler)
            distance, floor = _of_mixture(RePaint(subject.mixture, length, passages), sampler)
            found.append((mean, variance, distance))
            yield from _checks(label, mean, variance)
            yield Check(f"{label}distance, mixture / std", distance)
        for name, errors in zip(("mean", "variance", "mixture"), zip(*found, strict=True), strict=True):
            subject.passages[f"{name}, {length} at a time"] = Curve(list(PASSAGES), list(errors))
    yield from _refined(subject)
    (first, _, apart), (last, _, nearer) = found[0], found[-1]  # of single steps, which come last
    many = f"{PASSAGES[-1]} passages of single steps over one"
    yield Check(f"RePaint: error of the mean, {many}", last / first, most=0.5)
    yield Check(f"RePaint: distance, mixture, {many}", nearer / apart, most=1)
    yield Check("  distance between two sets of true samples of the mixture / std", floor)
    others: dict[str, Callable[[Denoiser], Guidance]] = {
        "replacement": Replacement,
        "reconstruction": lambda denoiser: Reconstruction(denoiser, weight="covariance"),
    }
    for name, make in others.items():
        mean, variance = _of_gaussian(make(subject.gaussian), sampler)
        distance, _ = _of_mixture(make(subject.mixture), sampler)
        yield from _checks(f"{name}, {STEPS} steps, for comparison: ", mean, variance)
        yield Check(f"{name}, {STEPS} steps, for comparison: distance, mixture / std", distance)
        for kind, error in (("mean", mean), ("variance", variance), ("mixture", distance)):
            subject.passages[f"{kind}, {name}"] = Curve([PASSAGES[0], PASSAGES[-1]], [error, error])


def _refined(subject: Subject) -> Iterator[Check]:
    """Yield checks of RePaint's errors on Gaussian data where steps and passages of single steps double together."""
    found = []
    for steps, passages in REFINED:
        sampler = subject.sampler_with(steps=steps, clip="none")
        found.append(_of_gaussian(RePaint(subject.gaussian, 1, passages), sampler))
        yield from _checks(f"RePaint, single steps of {steps}, {passages} times: ", *found[-1])
    counts = [float(passages) for _, passages in REFINED]
    first, last = REFINED[0], REFINED[-1]
    most = 0.3 if (sampler.order or 0) > 1 else None
    for name, errors in zip(("mean", "variance"), zip(*found, strict=True), strict=True):
        subject.passages[f"{name}, {first[0]} to {last[0]} steps"] = Curve(counts, list(errors))
        label = f"RePaint: error of the {name}, {last[0]} steps and {last[1]} passages over {first[0]} and {first[1]}"
        yield Check(label, errors[-1] / errors[0], most=most)


def _checks(label: str, mean: float, variance: float, most: float | None = None) -> Iterator[Check]:
    yield Check(f"{label}mean, error / std", mean, most=most)
    yield Check(f"{label}variance, relative error", variance, most=most)


def _of_gaussian(guided: Denoiser, sampler: Sampler) -> tuple[float, float]:
    """Return the errors of the mean, over the standard deviation, and of the variance, relative to it."""
    values = torch.tensor([VALUE, 0.0], dtype=torch.float64)
    mean, variance = (float(part) for part in conditional(MEAN, COVARIANCE, VALUE))
    of_data = torch.tensor([VALUE, mean], dtype=torch.float64), torch.diag(torch.tensor([0.0, variance]).double())
    ours = moments(Given(guided, KNOWN, values, PixelMask), sampler, *of_data)
    return abs(float(ours[0][1]) - mean) / math.sqrt(variance), abs(float(ours[1][1, 1]) / variance - 1)


def _of_mixture(guided: Denoiser, sampler: Sampler) -> tuple[float, float]:
    """Return the distance of the second numbers of samples from the truth over its standard deviation, and its floor.

    The floor is the same distance between two sets of true samples.
    """
    values = torch.tensor([BETWEEN, 0.0], dtype=torch.float64)
    x = mixture_at_start(guided.schedule, COUNT, sampler.start)
    ours = sampler(Given(guided, KNOWN, values, PixelMask), x, noise=Noise(1, torch.arange(COUNT)))[:, 1]
    truth, other = (true_samples(COUNT, seed) for seed in (0, 1))
    return tuple(float(_apart(part, truth) / truth.std()) for part in (ours, other))  # type: ignore[return-value]


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """Return the 2-Wasserstein distance between two sets of equally many numbers."""
    return (a.sort().values - b.sort().values).square().mean().sqrt()


def conditional(mean: Tensor, covariance: Tensor, value: float) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the second of two Gaussian numbers, given that the first one is ``value``.

    Args:
        mean: (..., 2).
        covariance: (..., 2, 2).
        value: the known number.
    """
    gain = covariance[..., 0, 1] / covariance[..., 0, 0]
    return mean[..., 1] + gain * (value - mean[..., 0]), covariance[..., 1, 1] - gain * covariance[..., 0, 1]


def true_samples(count: int, seed: int) -> Tensor:
    """Return samples of the second number of the proofs' mixture given the first, of value 0.2, float64, (count,)."""
    covariances = ROOTS @ ROOTS.mT
    means, variances = conditional(MEANS, covariances, BETWEEN)
    own = covariances[:, 0, 0]
    weights = WEIGHTS * (-((BETWEEN - MEANS[:, 0]) ** 2) / (2 * own)).exp() / own.sqrt()
    generator = torch.Generator().manual_seed(seed)
    k = torch.multinomial(weights, count, replacement=True, generator=generator)
    z = torch.randn(count, generator=generator, dtype=torch.float64)
    return means[k] + variances[k].sqrt() * z
