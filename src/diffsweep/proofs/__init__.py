r"""What is proved of a schedule, a prediction and a sampler before any training: against data whose exact denoiser is known.

The denoiser is exact and answers through the chosen prediction, in float64. On Gaussian data a walk is affine in its start and its
draws, so the mean and the covariance of its samples are computed, not estimated; on a mixture of Gaussians, where the sampling ODE is not
linear, orders of convergence are measured and samples are compared by their sliced Wasserstein distance.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffsweep.configuration.loading import trained
from diffsweep.diffusion import (
    INDEPENDENT,
    AsPredicted,
    ClipNoise,
    Condition,
    Denoised,
    Denoiser,
    Frames,
    GaussianDenoiser,
    GaussianMixtureDenoiser,
    Impulses,
    Known,
    Noise,
    Prediction,
    Step,
    Stream,
    add_noise,
    counting,
    ode_log_likelihood,
    variational_bound,
    walk,
)
from diffsweep.diffusion.bound import chain, chain_times
from diffsweep.guidance import Guidance, unguided
from diffsweep.guidance import chain as guidances
from diffsweep.samplers import ODE, Sampler
from diffsweep.schedules import Schedule

MEAN = torch.tensor([0.2, -0.1], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.08, 0.03], [0.03, 0.05]], dtype=torch.float64)
MEANS = torch.tensor([[0.45, 0.35], [-0.45, 0.15], [0.05, -0.5]], dtype=torch.float64)
ROOTS = torch.tensor(
    [[[0.15, 0.0], [0.05, 0.1]], [[0.1, 0.0], [-0.05, 0.12]], [[0.12, 0.0], [0.0, 0.08]]], dtype=torch.float64
)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
CLASSES = torch.tensor([0, 1, 0])  # of the components, for guidance
CLIP_MEAN = torch.tensor([0.2, 0.1, 0.0, -0.1], dtype=torch.float64)  # of clips of four frames, a number each
CLIP_COVARIANCE = 0.08 * 0.8 ** (torch.arange(4)[:, None] - torch.arange(4)).abs().double()
CLIP_KNOWN = torch.tensor([True, False, False, True])
CLIP_VALUES = torch.tensor([0.5, 0.0, 0.0, -0.4], dtype=torch.float64)

HALF_LOG_SNR = (-5.0, 4.0)  # the range of log(alpha / sigma) on which orders are measured
COUNTS = (8, 16, 32, 64, 128, 256, 512)  # steps of the walks whose errors are compared
ROUNDING = 1e-11  # errors below are not those of a solver
MANY = 500  # steps after which samples must be those of the data


class Check(NamedTuple):
    """A number that was measured, and what is asked of it.

    Attributes:
        name: what was measured.
        measured: the number.
        least, most: what it must reach, and must not pass; None where nothing is asked.
    """

    name: str
    measured: float
    least: float | None = None
    most: float | None = None

    @property
    def passed(self) -> bool:
        """NaN passes nothing."""
        if math.isnan(self.measured):
            return False
        return (self.least is None or self.measured >= self.least) and (self.most is None or self.measured <= self.most)

    @property
    def asked(self) -> bool:
        return self.least is not None or self.most is not None


class Curve(NamedTuple):
    """Errors of walks by their network evaluations."""

    evaluations: list[float]
    errors: list[float]


@dataclass
class Subject:
    """The parts under proof, and the curves that were measured on the way.

    Attributes:
        schedule, prediction, sampler, guidance, noise: the chosen parts.
        curves: ``order`` by steps; ``wasserstein`` and, of a deterministic solver, ``solution`` by network evaluations.
    """

    schedule: Schedule
    prediction: Prediction
    sampler: Sampler
    guidance: Callable[..., Denoiser] = unguided
    noise: ClipNoise = INDEPENDENT
    curves: dict[str, Curve] = field(default_factory=dict)

    @property
    def gaussian(self) -> Denoiser:
        return AsPredicted(GaussianDenoiser(self.schedule, MEAN, COVARIANCE), self.prediction)

    @property
    def clips(self) -> Denoiser:
        """Clips of Gaussian data, of a number a frame, under the chosen noise."""
        frames = len(CLIP_MEAN)
        exact = GaussianDenoiser(self.schedule, CLIP_MEAN, CLIP_COVARIANCE, noise=self.noise, shape=(1, frames, 1, 1))
        return AsPredicted(exact, self.prediction)

    @property
    def mixture(self) -> Denoiser:
        return AsPredicted(exact_mixture(self.schedule), self.prediction)

    @property
    def guided(self) -> Denoiser:
        """The mixture, told the class, under guidance for the chosen walk."""
        exact = AsPredicted(exact_mixture(self.schedule), self.prediction)
        times = None if self.sampler.tolerance is not None else self.sampler.times(self.schedule)
        return with_stand_ins(self.guidance, StandIn(self.schedule, self.prediction))(exact, times=times)

    def walks(self) -> Iterator[tuple[int, str, bool]]:
        """Steps of the walks whose samples are compared with the data, what to call them, and whether they must be right: the chosen
        walk is told of, one of many steps must be. An adaptive solver has but one, and it must be."""
        if self.sampler.tolerance is not None:
            yield self.sampler.steps, "", True
            return
        yield self.sampler.steps, f"{self.sampler.steps} steps: ", self.sampler.steps >= MANY
        if self.sampler.steps < MANY and self.exists(MANY):
            yield MANY, f"{MANY} steps: ", True

    def exists(self, steps: int) -> bool:
        """Whether a walk of so many steps has its times on this schedule."""
        try:
            self.sampler.with_steps(steps).times(self.schedule)
        except ValueError:
            return False
        return True

    def sampler_with(self, **changes: Any) -> Sampler:
        """The sampler with other settings of its walk."""
        other = self.sampler.with_steps(changes.pop("steps", self.sampler.steps))
        for name, value in changes.items():
            setattr(other, name, value)
        return other


def exact_mixture(schedule: Schedule) -> GaussianMixtureDenoiser:
    return GaussianMixtureDenoiser(schedule, MEANS, ROOTS @ ROOTS.mT, WEIGHTS, classes=CLASSES)


class StandIn:
    """In place of trained models that guidance uses: the perfect classifier, and a model of the data that knows less of them."""

    def __init__(self, schedule: Schedule, prediction: Prediction) -> None:
        self.log_prob = exact_mixture(schedule).log_prob
        wide = GaussianMixtureDenoiser(schedule, MEANS, 2 * ROOTS @ ROOTS.mT, WEIGHTS, classes=CLASSES)
        self.denoiser = AsPredicted(wide, prediction)


def with_stand_ins(guidance: Callable[..., Denoiser], stand_in: StandIn) -> Callable[..., Denoiser]:
    """Guidance whose trained models are what stands in for them."""
    if not isinstance(guidance, partial):
        return guidance
    if guidance.func is trained:
        return lambda: stand_in  # type: ignore[return-value]
    keywords = {
        name: with_stand_ins(value, stand_in) if isinstance(value, partial) else value
        for name, value in guidance.keywords.items()
    }
    return partial(guidance.func, *guidance.args, **keywords)


def round_trips(subject: Subject) -> Iterator[Check]:
    """From x_t to x0 and eps through the prediction, and from t to the log-SNR, both ways."""
    schedule = subject.schedule
    t = torch.linspace(schedule.t_min, schedule.t_max, 257, dtype=torch.float64)
    exact, eps = exact_mixture(schedule), Noise(0, torch.arange(len(t)))
    x_0 = MEANS[torch.arange(len(t)) % len(MEANS)]
    x_t = add_noise(schedule, x_0, t, eps.normal(2, stream=Stream.EPS, dtype=torch.float64))
    truth, ours = exact(x_t, t), AsPredicted(exact, subject.prediction)(x_t, t)
    alpha, sigma = (value[:, None] for value in schedule(t))
    # An error of the output by its last digit is one of x0 that grows like sigma / alpha.
    x0_error = ((ours.x0 - truth.x0).abs() / (1 + sigma / alpha)).max()
    yield Check("round trip of the prediction: x0", float(x0_error), most=1e-9)
    yield Check("round trip of the prediction: eps", float((ours.eps - truth.eps).abs().max()), most=1e-9)
    decomposed = (alpha * ours.x0 + sigma * ours.eps - x_t).abs() / (alpha + sigma)
    yield Check("x_t = alpha x0 + sigma eps", float(decomposed.max()), most=1e-9)
    yield Check(
        "round trip of t and log-SNR", float((schedule.time_of(schedule.log_snr(t)) - t).abs().max()), most=1e-6
    )


def order(subject: Subject) -> Iterator[Check]:
    """The slope of the mean error in steps even in log-SNR on a finite range, unclipped; of an adaptive solver, in its tolerance."""
    sampler, schedule = subject.sampler, subject.schedule
    if sampler.order is None:
        return
    ends = schedule.log_snr(torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64)) / 2
    levels = torch.stack([ends[0].clamp(min=HALF_LOG_SNR[0]), ends[1].clamp(max=HALF_LOG_SNR[1])])
    start, stop = schedule.time_of(2 * levels).tolist()
    settings = {"start": start, "stop": stop, "spacing": "log_snr", "clip": "none"}
    x, denoiser = started(subject, 64, start), subject.mixture
    exact = ODE(tolerance=1e-12, start=start, stop=stop, clip="none")(denoiser, x)

    def error(**changes: Any) -> float:
        walked = subject.sampler_with(**settings, **changes)(denoiser, x)
        return float((walked - exact).norm(dim=1).mean())

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


def samples(subject: Subject) -> Iterator[Check]:
    """Mean, covariance and Wasserstein distance of Gaussian samples, exact; sliced Wasserstein distance of a mixture's samples.

    Of the walk as it is chosen they are told; after many steps they must be right.
    """
    sampler, size = subject.sampler, math.sqrt(float(COVARIANCE.trace()))
    steps = sorted({sampler.steps, *((MANY,) if sampler.tolerance is None else ())})
    for count in steps:
        most = 0.03 if (count == steps[-1] and count >= MANY) or sampler.tolerance is not None else None
        label = f"{count} steps: " if sampler.tolerance is None else ""
        mean, covariance = gaussian_moments(subject, subject.sampler_with(steps=count, clip="none"))
        yield Check(f"{label}mean, error / std", float((mean - MEAN).norm()) / size, most=most)
        yield Check(
            f"{label}covariance, relative error",
            float((covariance - COVARIANCE).norm() / COVARIANCE.norm()),
            most=None if most is None else 2 * most,
        )
        distance = wasserstein(mean, covariance, MEAN, COVARIANCE)
        yield Check(f"{label}Wasserstein distance, Gaussian / std", distance / size, most=most)
    x = started(subject, 4096, sampler.start)
    noise = Noise(1, torch.arange(len(x)))
    data = exact_mixture(subject.schedule)
    generator = torch.Generator().manual_seed(0)
    truth, other = (arrived(subject, data.sample(len(x), generator)) for _ in range(2))
    scale, floor = float(truth.std(0).norm()), sliced_wasserstein(truth, other)
    for count in steps:
        ours = subject.sampler_with(steps=count)(subject.mixture, x, noise=noise)
        distance = sliced_wasserstein(ours, truth) / scale
        asked = (count == steps[-1] and count >= MANY) or sampler.tolerance is not None
        label = f"{count} steps: " if sampler.tolerance is None else ""
        yield Check(
            f"{label}Wasserstein distance, mixture / std", distance, most=0.02 + 2 * floor / scale if asked else None
        )
    yield Check("  the same between two sets of true samples", floor / scale)


def curves(subject: Subject) -> Iterator[Check]:
    """Errors of the chosen walk by network evaluations, for other numbers of steps: no check, the plot that papers have."""
    sampler = subject.sampler
    if sampler.tolerance is not None:
        settings: list[dict[str, Any]] = [{"tolerance": 10.0**-k} for k in range(2, 8)]
    else:
        settings = [{"steps": steps} for steps in (4, 6, 8, 10, 14, 20, 30, 50, 100, 200) if subject.exists(steps)]
    x, denoiser, size = started(subject, 64, sampler.start), subject.mixture, math.sqrt(float(COVARIANCE.trace()))
    reference = ODE(tolerance=1e-9, start=sampler.start, stop=sampler.stop, clip="none")
    exact = reference(denoiser, x) if sampler.order is not None else None
    of_data, of_solution = Curve([], []), Curve([], [])
    for changes in settings:
        walked = subject.sampler_with(**changes, clip="none")
        with counting(denoiser) as count:
            ours = walked(denoiser, x, noise=Noise(2, torch.arange(len(x))))
        of_data.evaluations.append(count.rows / len(x))
        of_data.errors.append(wasserstein(*gaussian_moments(subject, walked), MEAN, COVARIANCE) / size)
        if exact is not None:
            of_solution.evaluations.append(count.rows / len(x))
            of_solution.errors.append(float((ours - exact).norm(dim=1).mean()))
    subject.curves["wasserstein"] = of_data
    if exact is not None:
        subject.curves["solution"] = of_solution
    yield from ()


def bound(subject: Subject) -> Iterator[Check]:
    """The variational bound of Gaussian data, in expectation: never below the data's entropy, and equal to it where each reverse
    step has the variance that it should have, up to what the prior does not know."""
    schedule, variances = subject.schedule, COVARIANCE.diagonal()
    exact = AsPredicted(GaussianDenoiser(schedule, MEAN, torch.diag(variances)), subject.prediction)
    entropy = float(0.5 * (2 * math.pi * math.e * variances).log2().mean())
    x_0 = (MEAN + variances.sqrt() * SIGNS).repeat_interleave(4, 0)  # (16, 2)
    times = chain_times(schedule)
    for name, data in (("chosen", exact), ("best", BestVariance(exact, variances, times))):
        measured = variational_bound(data, x_0, times, Signs())
        gap, mismatch = float(measured.total.mean()) - entropy, float(measured.prior.mean())
        most = mismatch + 1e-3 if name == "best" else None
        yield Check(f"bound - entropy, {name} variance, {len(times) - 1} steps, bits/dim", gap, least=-1e-4, most=most)


class BestVariance(Denoiser):
    """A denoiser of independent Gaussian numbers that names the variance which a reverse step really has: the posterior's, and what
    is not known of x_0."""

    def __init__(self, denoiser: Denoiser, variances: Tensor, times: Tensor) -> None:
        super().__init__(denoiser.schedule, denoiser.prediction, denoiser.noise)
        self.denoiser, up = denoiser, times.flip(0)
        step = Step(*(value.flip(0) for value in walk(self.schedule, times)))
        link = chain(self.schedule, step, torch.arange(len(up) - 1) == 0, up[1], up[min(2, len(up) - 1)])
        alpha_s, sigma_s, alpha_t, sigma_t, small, large, var_ts = (
            value[:, None]
            for value in (
                *(step.alpha_s, step.sigma_s, step.alpha_t, step.sigma_t),
                *(link.log_small, link.log_large, step.var_ts),
            )
        )
        unknown = (
            variances * sigma_t**2 / (alpha_t**2 * variances + sigma_t**2)
        )  # (K, D): the variance of x_0 given x_t
        gain = torch.where(sigma_s > 0, alpha_s * var_ts / sigma_t**2, 1.0)
        best = step.var_post[:, None] + gain**2 * unknown
        mix = torch.where(large > small, (best.log() - small) / (large - small), 0.0)
        self.mix = dict(zip(up[1:].tolist(), mix, strict=True))

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        return self.denoiser(x_t, t, cond)._replace(variance_mix=self.mix[float(t)].expand_as(x_t))


def likelihood(subject: Subject) -> Iterator[Check]:
    """The ODE's log-likelihood of a mixture's samples against their exact log-density at the schedule's lowest noise."""
    schedule, mixture = subject.schedule, exact_mixture(subject.schedule)
    lowest, highest = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
    x = add_noise(
        schedule,
        mixture.sample(32, torch.Generator().manual_seed(1)),
        lowest,
        Noise(3, torch.arange(32)).normal(2, stream=Stream.EPS, dtype=torch.float64),
    )
    ours = ode_log_likelihood(AsPredicted(mixture, subject.prediction), x, tolerance=1e-7)
    error = (ours.nats - mixture.log_density(x, lowest)).abs().mean()
    # The prior knows nothing of the data; what of them is left at the end costs about alpha x0 x / sigma^2.
    left = float((schedule.log_snr(highest) / 2).exp()) if schedule.t_max == 1 else 0.01
    yield Check("log-likelihood by the ODE, mean error in nats", float(error), most=1e-3 + 2 * left)


def guided(subject: Subject) -> Iterator[Check]:
    """Guided scores against their formula over the exact log-densities, the calls of the denoiser, and the samples of many steps against
    the guided ODE's solution. (Guided samples are not those of a tilted density.)"""
    denoiser = subject.guided
    if not isinstance(denoiser, Guidance):
        return
    schedule, exact = subject.schedule, exact_mixture(subject.schedule)
    x_0, generator = exact.sample(64, torch.Generator().manual_seed(4)), torch.Generator().manual_seed(5)
    cond = Condition(vector=torch.arange(64) % 2)

    def score(x_t: Tensor, t: Tensor, told: Condition | None) -> Tensor:
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            return torch.autograd.grad(exact.log_density(x, t, told).sum(), x)[0]

    errors = []
    with torch.no_grad():
        for t in torch.linspace(schedule.t_min, schedule.t_max, 33, dtype=torch.float64):
            noise = torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
            x_t, sigma = add_noise(schedule, x_0, t, noise), schedule(t)[1]
            formula = denoiser.score(score, x_t, t.expand(len(x_t)), cond)
            if formula is not None:
                eps = -sigma * formula
                errors.append(float(((denoiser(x_t, t, cond).eps - eps).abs() / (1 + eps.abs())).max()))
    if errors:
        yield Check("guided score, against its formula", max(errors), most=1e-6)
    sampler = subject.sampler
    x = started(subject, 64, sampler.start)
    with counting(guidances(denoiser)[-1].denoiser) as count:
        sampler(denoiser, x, cond=cond)
    with counting(plain := subject.mixture) as bare:
        sampler(plain, x, cond=cond)
    if sampler.tolerance is None:
        yield Check("guided calls of the network, over unguided calls", count.calls / bare.calls, most=1)
    if sampler.order is None:
        return
    reference = ODE(tolerance=1e-9, start=sampler.start, stop=sampler.stop, clip="none")
    steps = sampler.steps if sampler.tolerance is not None or not subject.exists(MANY) else max(MANY, sampler.steps)
    walked = subject.sampler_with(steps=steps, clip="none")(denoiser, x, cond=cond)
    solution = reference(denoiser, x, cond=cond)
    error = float((walked - solution).norm(dim=1).mean() / solution.std(0).norm())
    yield Check(f"guided samples of {steps} steps, against the guided ODE / std", error, most=0.03)


def completed(subject: Subject) -> Iterator[Check]:
    """Clips of Gaussian data whose ends are known, under guidance that holds known frames and nothing beside it: mean and covariance of
    the others, against the conditional Gaussian. Where guidance is exact on Gaussian data, and the solver above order 1, they must be
    right; else the error is told."""
    guidance = subject.guided
    if not isinstance(guidance, Guidance) or not guidance.takes_measurement or len(guidances(guidance)) > 1:
        return
    sampler, a = subject.sampler, CLIP_KNOWN
    steps = sampler.steps if sampler.tolerance is not None or not subject.exists(MANY) else max(MANY, sampler.steps)
    exact = subject.clips
    walked = subject.sampler_with(steps=steps, clip="none")
    times = None if sampler.tolerance is not None else walked.times(subject.schedule)
    gain = torch.linalg.solve(CLIP_COVARIANCE[a][:, a], CLIP_COVARIANCE[a][:, ~a]).T
    mean = torch.where(a, CLIP_VALUES, CLIP_MEAN)
    mean[~a] += gain @ (CLIP_VALUES - CLIP_MEAN)[a]
    covariance = torch.zeros_like(CLIP_COVARIANCE)
    covariance[torch.outer(~a, ~a)] = (CLIP_COVARIANCE[~a][:, ~a] - gain @ CLIP_COVARIANCE[a][:, ~a]).flatten()
    of_noise = subject.noise.covariance(len(mean))
    ours = moments(OfClip(subject.guidance(exact, times=times)), walked, mean, covariance, of_noise)
    most = 0.02 if guidance.exact_on_gaussians and (sampler.order or 0) > 1 else None
    label = f"known frames, {steps} steps: " if sampler.tolerance is None else "known frames: "
    size = math.sqrt(float(covariance.trace()))
    yield Check(f"{label}mean, error / std", float((ours[0] - mean).norm()) / size, most=most)
    error = float((ours[1] - covariance).norm() / covariance.norm())
    yield Check(f"{label}covariance, relative error", error, most=most)


def clips_of_shared_noise(subject: Subject) -> Iterator[Check]:
    """Clips of Gaussian data under noise that frames share: mean and covariance of the samples, exact. Of the walk as it is chosen they are
    told; after many steps they must be right."""
    if not subject.noise.correlated:
        return
    of_noise, size = subject.noise.covariance(len(CLIP_MEAN)), math.sqrt(float(CLIP_COVARIANCE.trace()))
    for count, label, asked in subject.walks():
        walked = subject.sampler_with(steps=count, clip="none")
        mean, covariance = moments(subject.clips, walked, CLIP_MEAN, CLIP_COVARIANCE, of_noise)
        error = float((mean - CLIP_MEAN).norm()) / size
        yield Check(f"{label}clips of shared noise: mean, error / std", error, most=0.03 if asked else None)
        error = float((covariance - CLIP_COVARIANCE).norm() / CLIP_COVARIANCE.norm())
        yield Check(f"{label}clips of shared noise: covariance, relative error", error, most=0.06 if asked else None)


class OfClip(Denoiser):
    """A denoiser of clips with known frames, told of them as vectors (B, F) of a number a frame."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser.schedule, denoiser.prediction, denoiser.noise)
        self.denoiser = denoiser

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        x = x_t[:, None, :, None, None]  # (B, 1, F, 1, 1)
        known = CLIP_VALUES[:, None, None].expand_as(x)
        mask = CLIP_KNOWN.expand(len(x), -1)
        x0, eps, mix = self.denoiser(x, t, Condition(known=Known(Frames(mask), known)))
        return Denoised(x0[:, 0, :, 0, 0], eps[:, 0, :, 0, 0], mix)


PROOFS: tuple[Callable[[Subject], Iterator[Check]], ...] = (
    *(round_trips, order, samples, bound, likelihood, guided, completed, clips_of_shared_noise),
    curves,
)


SIGNS = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)


class Signs(Noise):
    """In place of noise: all signs of two numbers. Under them the mean of a quadratic is its Gaussian expectation, exactly."""

    def __init__(self) -> None:
        super().__init__(0, torch.empty(0, dtype=torch.int64))

    def like_over(self, x: Tensor, steps: range, stream: Stream = Stream.STEP) -> Tensor:
        return SIGNS.repeat(len(x) // len(SIGNS), 1).expand(len(steps), -1, -1)


def gaussian_moments(subject: Subject, sampler: Sampler) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the samples of Gaussian data, exactly."""
    return moments(subject.gaussian, sampler, MEAN, COVARIANCE)


def moments(
    denoiser: Denoiser, sampler: Sampler, mean: Tensor, covariance: Tensor, of_noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Those of the samples of a denoiser that is affine in x_t, of data with the given mean (D,) and covariance (D, D), with which the walk
    starts where it starts below t = 1, under noise of covariance ``of_noise`` (D, D): see :class:`~diffsweep.diffusion.Impulses`."""
    with torch.no_grad():
        alpha, sigma = denoiser.schedule(torch.tensor(sampler.start, dtype=torch.float64))
    dimension = len(mean)
    of_noise = torch.eye(dimension, dtype=torch.float64) if of_noise is None else of_noise
    draws = torch.linalg.cholesky(of_noise)
    if sampler.start == 1:  # from the prior
        mean, root = torch.zeros_like(mean), sigma * draws
    else:
        mean = alpha * mean
        root = torch.linalg.cholesky(alpha**2 * covariance + sigma**2 * of_noise)
    noise = Impulses(dimension, {}, root=draws.T)
    sampler(denoiser, mean[None], noise=noise)  # only to know what is drawn
    x = mean.repeat(1 + dimension * (1 + len(noise.draws)), 1)
    x[1 : 1 + dimension] += root.T
    x = sampler(denoiser, x, noise=noise)
    response = x[1:] - x[0]
    covariance = response.T @ response
    if sampler.stop > 0:  # back to the data's own units: what is left of the noise is known
        with torch.no_grad():
            alpha, sigma = denoiser.schedule(torch.tensor(sampler.stop, dtype=torch.float64))
        covariance = (covariance - sigma**2 * of_noise) / alpha**2
        return x[0] / alpha, covariance
    return x[0], covariance


def started(subject: Subject, count: int, start: float) -> Tensor:
    """x at a walk's start: from the prior at t = 1, else data of the mixture with noise."""
    noise = Noise(0, torch.arange(count)).normal(2, stream=Stream.PRIOR, dtype=torch.float64)
    t = torch.tensor(start, dtype=torch.float64)
    with torch.no_grad():
        if start == 1:
            return subject.schedule(t)[1] * noise
        data = exact_mixture(subject.schedule).sample(count, torch.Generator().manual_seed(2))
        return add_noise(subject.schedule, data, t, noise)


def arrived(subject: Subject, x_0: Tensor) -> Tensor:
    """Data as they are at a walk's end."""
    stop = torch.tensor(subject.sampler.stop, dtype=torch.float64)
    if stop == 0:
        return x_0
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(3), dtype=x_0.dtype)
    with torch.no_grad():
        return add_noise(subject.schedule, x_0, stop, eps)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of log y over log x, by least squares; NaN of fewer than two points."""
    if len(x) < 2:
        return math.nan
    u, v = (torch.tensor(values, dtype=torch.float64).log() for values in (x, y))
    return float(((u - u.mean()) * (v - v.mean())).sum() / (u - u.mean()).square().sum())


def wasserstein(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    r"""The 2-Wasserstein distance of two Gaussians: :math:`W^2 = |\mu_a - \mu_b|^2 + \mathrm{tr}(A + B - 2 (B^{1/2} A B^{1/2})^{1/2})`."""

    def root(matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.mT

    root_b = root(cov_b)
    square = (mean_a - mean_b).square().sum() + (cov_a + cov_b - 2 * root(root_b @ cov_a @ root_b)).trace()
    return float(square.clamp(min=0).sqrt())


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = 32) -> float:
    """The 2-Wasserstein distance of two sets of as many points in the plane, root mean square over directions."""
    angle = math.pi * torch.arange(directions, dtype=a.dtype) / directions
    lines = torch.stack([angle.cos(), angle.sin()])  # (2, K)
    return float(((a @ lines).sort(0).values - (b @ lines).sort(0).values).square().mean().sqrt())
