r"""The variational bound on the negative log-likelihood, term by term, in bits per dimension.

For times :math:`0 = t_0 < t_1 < ... < t_K`, all T steps of a chain or fewer, it is

.. math:: -\log p(x_0) \le D_{KL}(q(x_{t_K}|x_0) \| p(x_{t_K})) + \sum_{k=1}^{K-1} D_{KL}(q(x_{t_k}|x_{t_{k+1}}, x_0) \|
    p(x_{t_k}|x_{t_{k+1}})) - \log p(x_0 | x_{t_1})

in expectation over q (DDPM, arXiv:2006.11239, eq. 5; the variances as in improved DDPM, arXiv:2102.09672). The first
term is the prior's, the last one the decoder's, and p is the model's reverse step: a Gaussian whose mean is the
posterior mean with the denoiser's x0 in place of x_0.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from diffsweep.diffusion.condition import Condition
from diffsweep.diffusion.denoiser import Denoised, PlainDenoiser
from diffsweep.diffusion.noise import Noise, Stream
from diffsweep.diffusion.noise_ahead import StepNoise
from diffsweep.diffusion.process import Step, expand_to, factor, mean_at, mean_of_frames, step_between
from diffsweep.diffusion.spacing import spaced_times
from diffsweep.schedules import Level, Schedule

_BLOCK = 8  # the number of steps whose noise is drawn at once


def log_normal_density(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the log-density of N(mean, exp(log_variance)) at each number of ``x``, in nats, like x."""
    return -0.5 * (math.log(2 * math.pi) + log_variance + (x - mean) ** 2 * torch.exp(-log_variance))


def log_level_probability(x: Tensor, mean: Tensor, log_variance: Tensor, levels: int) -> Tensor:
    """Return the log-probability of the bin of each number of ``x`` under N(mean, exp(log_variance)), in nats, like x.

    The data take ``levels`` equally spaced values on [-1, 1]. A bin reaches half a spacing to each side of its value,
    but the first one begins at minus infinity and the last one ends at infinity (DDPM, eq. 13).
    """
    half, dtype = 1 / (levels - 1), x.dtype
    x, mean, log_variance = (value.double() for value in (x, mean, log_variance))  # far tails need float64
    inverse_std = torch.exp(-0.5 * log_variance)
    low, high = (x - half - mean) * inverse_std, (x + half - mean) * inverse_std
    # In the upper tail both cumulative probabilities are near 1. Mirrored they are small, and so is the error.
    mirror = low + high > 0
    low, high = torch.where(mirror, -high, low), torch.where(mirror, -low, high)
    log_low, log_high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    inside = log_high + torch.log(-torch.expm1((log_low - log_high).clamp(max=-1e-12)))
    below = torch.special.log_ndtr((x + half - mean) * inverse_std)
    above = torch.special.log_ndtr(-(x - half - mean) * inverse_std)
    return torch.where(x < -1 + half, below, torch.where(x > 1 - half, above, inside)).to(dtype)


def log_decoder(x: Tensor, mean: Tensor, log_variance: Tensor, levels: int | None) -> Tensor:
    """Return the log-density of ``x`` in nats, like x, or the log-probability of its bin if ``levels`` is not None."""
    if levels is None:
        return log_normal_density(x, mean, log_variance)
    return log_level_probability(x, mean, log_variance, levels)


def prior_term(schedule: Schedule, x_0: Tensor, t: Tensor) -> Tensor:
    r"""Return the divergence of q(x_t | x_0) from the prior N(0, sigma_t^2), in bits per dimension, (B,).

    It is the mean of :math:`\alpha_t^2 x_0^2 / (2 \sigma_t^2)` over the numbers of a sample, divided by log 2.

    Args:
        schedule: the noise schedule, alpha_t and sigma_t.
        x_0: clean data, (B, ...).
        t: the time at which sampling starts, ().
    """
    return _per_dim(0.5 * x_0**2, t) * schedule.log_snr(t).exp().to(x_0)


class Chain(NamedTuple):
    """Steps of a reverse chain from noise to data, and the range in which the log-variance of each reverse step lies.

    Each step leads from a time t to s < t. Every value has the shape of the times: (), (K,) for K steps, (B,) or
    (B, F).

    Attributes:
        step: the noise levels at t and s, and the variances between them.
        log_small, log_large: the lower and the upper end of the range.
        first: bool, True for a step that ends at clean data.
    """

    step: Step[Tensor]
    log_small: Tensor
    log_large: Tensor
    first: Tensor

    def at(self, k: int) -> "Chain":
        """Return the k-th step of a chain of K steps, with values ()."""
        at_t, at_s = (Level(*(value[k] for value in level)) for level in (self.step.at_t, self.step.at_s))
        step = Step(at_t, at_s, self.step.var_ts[k], self.step.var_post[k])
        return Chain(step, *(value[k] for value in self[1:]))


def chain(schedule: Schedule, step: Step[Tensor], first: Tensor, t_1: float, t_2: float) -> Chain:
    r"""Return steps of a reverse chain, with the range in which the log-variance of each reverse step lies.

    The range is from the log-variance of x_s given x_t and x_0 to that of the forward step from s to t. For a step to
    clean data the former variance is 0, so it is replaced. On a discrete schedule that of the next higher step is
    taken, as in improved-diffusion (with one step only, sigma^2 at t_1). On a continuous one, whose times can be as
    close as one likes, both ends become :math:`\sigma^2 / \alpha^2` at t_1: the variance of x_0 given x_t if nothing
    else is known.

    Args:
        schedule: the noise schedule, alpha_t and sigma_t.
        step: the steps.
        first: bool, of the shape of the times, True for a step that ends at clean data.
        t_1, t_2: the two lowest times at which a step begins; equal if the chain has one step only.
    """
    if schedule.num_steps is not None:
        key = ("log_first", t_1, t_2, first.device)
        log_first = schedule.cached(key, lambda: _log_first(schedule, t_1, t_2, first))
        log_large = step.var_ts.log()
    else:
        log_first = -schedule.log_snr(torch.tensor(t_1, dtype=torch.float64))
        log_large = torch.where(first, log_first, step.var_ts.log())
    return Chain(step, torch.where(first, log_first, step.var_post.log()), log_large, first)


def _log_first(schedule: Schedule, t_1: float, t_2: float, like: Tensor) -> Tensor:
    pair = step_between(schedule, *(torch.tensor(t, dtype=torch.float64) for t in (t_1, t_2)))
    return (pair.var_post if t_2 > t_1 else pair.at_t.sigma**2).log().to(like.device)


def bound_term(link: Chain, denoised: Denoised, x_0: Tensor, levels: int | None, detach_mean: bool = False) -> Tensor:
    """Return the term of the variational bound that belongs to one step, in bits per dimension, (B,).

    It is the divergence of the model's reverse step from the posterior, or, for a step that ends at clean data, the
    code length of the decoder, -log p(x_0 | x_t).

    Args:
        link: the step from t to s, values () or (B,); for clips also (B, F), steps of frames, whose terms are averaged.
        denoised: the denoiser's estimates at t.
        x_0: the clean data, (B, ...).
        levels: the number of equally spaced values on [-1, 1] that the data take; None for continuous data.
        detach_mean: whether to stop the gradient through x0, so that only the variance has one (the hybrid loss).
    """
    x0 = denoised.x0.detach() if detach_mean else denoised.x0
    mix, first = denoised.variance_mix, link.first
    if isinstance(mix, Tensor):
        log_small, log_large = expand_to(link.log_small, x_0), expand_to(link.log_large, x_0)
        log_variance = log_small + mix.to(x_0) * (log_large - log_small)
    else:  # in the first step fixed_large takes the replaced variance too
        log_variance = link.log_small if mix == 0 else torch.where(first, link.log_small, link.log_large)
    if first.ndim == 0:
        return _code(x_0, x0, log_variance, levels, first) if first else _divergence(link, log_variance, x_0, x0)
    # Values that are not used must still be finite, else their gradient is NaN instead of 0; x0 may be anything.
    mean = torch.where(expand_to(first, x_0) > 0, x0, x_0)
    code = _code(x_0, mean, log_variance, levels, first)
    return mean_of_frames(torch.where(first, code, _divergence(link, log_variance, x_0, x0)))


def _code(x_0: Tensor, mean: Tensor, log_variance: Tensor, levels: int | None, times: Tensor) -> Tensor:
    """Return the code length of the decoder at each of ``times``; the log-variance is like x_0 or like the times."""
    if log_variance.ndim == 0:
        log_variance = torch.full_like(x_0, log_variance.item())
    elif log_variance.ndim < x_0.ndim:
        log_variance = expand_to(log_variance, x_0).expand_as(x_0)
    return _per_dim(-log_decoder(x_0, mean, log_variance, levels), times)


def _divergence(link: Chain, log_variance: Tensor, x_0: Tensor, x0: Tensor) -> Tensor:
    """Return the divergence of the reverse step from the posterior; the log-variance is like x_0 or like the times."""
    step = link.step
    gain = step.from_x_0
    if log_variance.ndim < x_0.ndim:  # one variance for all numbers of a sample
        error = mean_at((x_0 - x0).square(), gain)  # (B,) or (B, F)
        offset, slope = _excess(link.log_small - log_variance), gain**2 * torch.exp(-log_variance)
        return (factor(offset, error) + factor(slope, error) * error) * (0.5 / math.log(2))
    log_ratio = expand_to(link.log_small, x_0) - log_variance
    squares = (expand_to(gain, x_0) * (x_0 - x0)) ** 2 * torch.exp(-log_variance)
    return _per_dim(0.5 * (_excess(log_ratio) + squares), gain)


def _excess(log_ratio: Tensor) -> Tensor:
    """Return r - 1 - log r for a ratio r of variances, in a form that does not cancel where r is nearly 1."""
    return torch.expm1(log_ratio) - log_ratio


def chain_times(schedule: Schedule, steps: int | None = None) -> Tensor:
    """Return the times of a reverse chain, decreasing from 1 to 0, float64, (steps + 1,).

    On a discrete schedule they lie on the grid k / T, all of it by default. On a continuous one they are evenly spaced
    in log-SNR where it is finite, with 1000 steps by default. If the schedule's sigma(0) is not 0, the last two are 0.

    Raises:
        ValueError: ``steps`` is more than the T steps of a discrete schedule.
    """
    grid = schedule.num_steps
    if grid is None:
        return spaced_times(schedule, "log_snr", 1000 if steps is None else steps)
    if steps is not None and steps > grid:
        raise ValueError(f"likelihood.steps={steps} is more than the schedule's {grid} steps")
    return spaced_times(schedule, "trailing", grid if steps is None else steps)


def grid_term(
    schedule: Schedule, denoised: Denoised, x_0: Tensor, t: Tensor, levels: int | None, detach_mean: bool = False
) -> Tensor:
    """Return the term of the bound that belongs to the step from t to t - 1/T, in bits per dimension, (B,).

    Args:
        schedule: a discrete schedule of T steps.
        denoised: the denoiser's estimates at ``t``.
        x_0: the clean data, (B, ...).
        t: times on the grid 1/T, ..., 1, (B,); for clips also (B, F), a time of each frame.
        levels: the number of equally spaced values on [-1, 1] that the data take; None for continuous data.
        detach_mean: whether to stop the gradient through x0, so that only the variance has one.
    """
    assert schedule.num_steps is not None
    k = (t.double() * schedule.num_steps).round()
    t_1, t_2 = 1 / schedule.num_steps, min(2, schedule.num_steps) / schedule.num_steps
    step = step_between(schedule, (k - 1) / schedule.num_steps, k / schedule.num_steps)
    return bound_term(chain(schedule, step, k == 1, t_1, t_2), denoised, x_0, levels, detach_mean)


def end_terms(schedule: Schedule, x_0: Tensor, eps: Tensor, levels: int | None) -> Tensor:
    r"""Return the sum of the bound's terms at the ends of a continuous schedule, in bits per dimension, (B,).

    They are the prior's at t_max, and the code length of x_0 given x_t at t = t_min by the decoder
    :math:`N(x_t / \alpha_t, \sigma_t^2 / \alpha_t^2)`, which has no network.

    Args:
        schedule: a continuous schedule.
        x_0: clean data, (B, ...).
        eps: the noise at t_min, like x_0.
        levels: the number of equally spaced values on [-1, 1] that the data take; None for continuous data.
    """
    low, high = (x_0.new_full((), end, dtype=torch.float64) for end in (schedule.t_min, schedule.t_max))
    log_variance = -schedule.log_snr(low).to(x_0)
    z = x_0 + torch.exp(0.5 * log_variance) * eps  # x_t / alpha
    return prior_term(schedule, x_0, high) + _per_dim(-log_decoder(x_0, z, log_variance, levels), low)


def _per_dim(nats: Tensor, times: Tensor) -> Tensor:
    """Return the mean over dimensions in bits, of each sample, or of each frame if the times are of frames."""
    return mean_at(nats, times) / math.log(2)


class Bound(NamedTuple):
    """The variational bound of B samples on a chain of K steps, term by term, in bits per dimension.

    Attributes:
        terms: (B, K), from the decoder's term (the step to clean data) to that of the step from the highest time.
        prior: (B,), the divergence of the noisiest x_t from the prior.
    """

    terms: Tensor
    prior: Tensor

    @property
    def total(self) -> Tensor:
        """Return the bound of each sample, the sum of all its terms, (B,)."""
        return self.terms.sum(1) + self.prior


@torch.no_grad()
def variational_bound(
    denoiser: PlainDenoiser,
    x_0: Tensor,
    times: Tensor,
    noise: Noise,
    levels: int | None = None,
    cond: Condition | None = None,
    clip: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Bound:
    """Return the variational bound of data on a reverse chain of K steps, by one network call for each step.

    Args:
        denoiser: the model.
        x_0: clean data, (B, ...).
        times: decreasing from 1 to 0, float64 on the CPU, (K + 1,): those of a sampler, or the whole grid. If the
            schedule's sigma(0) is not 0, the last step goes from 0 to clean data (two zeros).
        noise: the source of noise; each step's x_t is drawn from q(x_t | x_0) with noise of its own.
        levels: the number of equally spaced values on [-1, 1] that the data take; None for a Gaussian decoder.
        cond: the condition of each sample; None for none.
        clip: whether to clamp the predicted x0 to [-1, 1], as improved-diffusion does in evaluation.
        progress: called after each step with its number, from 0 (the step to clean data) to K - 1.
    """
    schedule, up = denoiser.schedule, times.flip(0)  # (K + 1,)
    first = torch.arange(len(up) - 1) == 0
    step = step_between(schedule, up[:-1], up[1:], to_clean=first)
    links = chain(schedule, step, first, float(up[1]), float(up[min(2, len(up) - 1)]))
    noise = StepNoise(noise, len(up) - 1, at_most=_BLOCK)
    terms = torch.empty(len(up) - 1, len(x_0), dtype=x_0.dtype, device=x_0.device)
    for k, t in enumerate(up[1:]):
        link, eps = links.at(k), noise.at(k).like(x_0, Stream.VALIDATION)
        x_t = factor(link.step.at_t.alpha, x_0) * x_0 + factor(link.step.at_t.sigma, x_0) * eps
        denoised = denoiser(x_t, t, cond)
        denoised = denoised._replace(x0=denoised.x0.clamp(-1, 1)) if clip else denoised
        terms[k] = bound_term(link, denoised, x_0, levels)
        if progress is not None:
            progress(k)
    return Bound(terms.T, prior_term(schedule, x_0, up[-1]))
