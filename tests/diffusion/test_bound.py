"""The variational bound agrees with torch.distributions, closed forms of Gaussian data, and improved-diffusion."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import Normal, kl_divergence

from diffsweep.diffusion import (
    Denoised,
    Denoiser,
    GaussianDenoiser,
    GaussianMixtureDenoiser,
    Noise,
    Stream,
    posterior,
    step_between,
    variational_bound,
)
from diffsweep.diffusion.bound import (
    bound_term,
    chain,
    chain_times,
    end_terms,
    grid_term,
    log_decoder,
    log_level_probability,
    log_normal_density,
    prior_term,
)
from diffsweep.schedules import EDM, VE, VP, Cosine, CosineContinuous, Flow, Learned, Linear, ScaledLinear, SubVP

MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64)
VARIANCE = torch.tensor([0.5, 0.08], dtype=torch.float64)
SIGNS = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)


class Mixed(GaussianDenoiser):
    """The exact denoiser of independent Gaussian numbers, with the variance mix ``mix(t)``."""

    def __init__(self, schedule, mix, mean=MEAN, variance=VARIANCE):
        super().__init__(schedule, mean, torch.diag(variance))
        self.mix = mix

    def forward(self, x_t, t, cond=None):
        mix = self.mix(float(t)) if callable(self.mix) else self.mix
        mix = mix.expand_as(x_t) if isinstance(mix, torch.Tensor) else mix
        return super().forward(x_t, t)._replace(variance_mix=mix)


class Signs(Noise):
    """All signs of two numbers in place of noise.

    The mean of a quadratic under them is its Gaussian expectation, exactly.
    """

    at_once = 0

    def __init__(self):
        super().__init__(0, torch.empty(0, dtype=torch.int64))

    def at(self, step):
        return self

    def like(self, x, stream):
        return SIGNS.repeat(len(x) // len(SIGNS), 1)


def data_by_signs():
    """Return x_0 (16, 2) at all signs, of mean 0.3 and -0.2 and the variances, each four times for the signs of eps."""
    return (MEAN + VARIANCE.sqrt() * SIGNS).repeat_interleave(4, 0)


def levels_of(schedule, times):
    """Return alpha and sigma at the times in rising order, two lists of (K + 1,) numbers.

    The first level is clean data.
    """
    with torch.no_grad():
        alpha, sigma = (value.flip(0).tolist() for value in schedule(times))
    return [1.0, *alpha[1:]], [0.0, *sigma[1:]]


def ranges(schedule, times):
    """Return the small and the large variance of each step in rising order, K numbers each.

    They are computed by the formulas in alpha and sigma.
    """
    alpha, sigma = levels_of(schedule, times)
    count = len(times) - 1
    large = [sigma[k + 1] ** 2 - (alpha[k + 1] / alpha[k]) ** 2 * sigma[k] ** 2 for k in range(count)]
    small = [large[k] * sigma[k] ** 2 / sigma[k + 1] ** 2 for k in range(count)]
    if schedule.num_steps is None:
        small[0] = large[0] = sigma[1] ** 2 / alpha[1] ** 2
    else:
        small[0] = small[1] if count > 1 else sigma[1] ** 2
    return small, large


def remaining_variances(schedule, times, variance=VARIANCE):
    """Return the variance of x_0 given x_t at the upper time of each step, a list of K."""
    alpha, sigma = levels_of(schedule, times)
    return [variance * s**2 / (a**2 * variance + s**2) for a, s in zip(alpha[1:], sigma[1:], strict=True)]


def optimal_variances(schedule, times, variance=VARIANCE):
    """Return the variance of x_s given x_t: that given x_0 too, plus that of x_0 given x_t."""
    alpha, sigma = levels_of(schedule, times)
    (small, large), known = ranges(schedule, times), remaining_variances(schedule, times, variance)
    best = [
        small[k] + (alpha[k] * large[k] / sigma[k + 1] ** 2) ** 2 * known[k] for k in range(1, len(known))
    ]  # for the step to clean data it is the variance of x_0 given x_t alone
    return [known[0], *best]


def optimal_mix(schedule, times, variance=VARIANCE):
    """Return by time where the best variances lie in their ranges."""
    small, large = ranges(schedule, times)
    best = optimal_variances(schedule, times, variance)
    mixes = [
        torch.zeros_like(v) if a == b else (v.log() - math.log(a)) / (math.log(b) - math.log(a))
        for a, b, v in zip(small, large, best, strict=True)
    ]
    return dict(zip(times.flip(0)[1:].tolist(), mixes, strict=True))


def bits(nats):
    return nats / math.log(2)


def entropy():
    """Return the entropy of the data, in bits per dimension."""
    return bits(0.5 * (2 * math.pi * math.e * VARIANCE).log().mean().item())


def prior_mismatch(schedule):
    """Return the divergence of the true marginal at t = 1 from the prior, in bits per dimension."""
    alpha, sigma = schedule(torch.ones((), dtype=torch.float64))
    marginal = Normal(alpha * MEAN, (alpha**2 * VARIANCE + sigma**2).sqrt())
    return bits(kl_divergence(marginal, Normal(torch.zeros_like(MEAN), sigma)).mean().item())


def learned():
    torch.manual_seed(0)
    return Learned(width=8)


CHAINS = {
    "linear": (Linear(30), None),
    "cosine": (Cosine(30), None),
    "zero terminal": (Cosine(30, zero_terminal_snr=True), None),
    "strided linear": (Linear(1000), 7),
    "strided cosine": (Cosine(1000), 20),
    "one step": (Linear(1000), 1),
    "two steps": (Cosine(2), None),
    "vp": (VP(), 20),
    "sub_vp": (SubVP(), 20),
    "flow": (Flow(), 20),
    "edm": (EDM(), 20),
    "ve": (VE(), 20),
    "cosine_continuous": (CosineContinuous(), 20),
    "learned": (learned(), 20),
}
MIXES = {"fixed_small": 0.0, "fixed_large": 1.0, "learned_range": torch.tensor([0.3, 0.9], dtype=torch.float64)}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", CHAINS)
def test_every_term_is_the_divergence_by_torch_distributions(name, mix):
    (schedule, steps), mix = CHAINS[name], MIXES[mix]
    times, noise = chain_times(schedule, steps), Noise(0, torch.arange(5))
    denoiser = Mixed(schedule, mix)
    x_0 = denoiser.sample(5)
    bound = variational_bound(denoiser, x_0, times, noise)
    small, large = ranges(schedule, times)
    up = times.flip(0)
    assert bound.terms.shape == (5, len(times) - 1)
    for k, t in enumerate(up[1:]):
        alpha, sigma = (value.item() for value in schedule(t))
        x_t = alpha * x_0 + sigma * noise.at(k).like(x_0, Stream.VALIDATION)
        estimate = denoiser(x_t, t).x0
        share = 0.0 if k == 0 and not isinstance(mix, torch.Tensor) else mix
        deviation = (small[k] ** (1 - share) * large[k] ** share) ** 0.5 * torch.ones_like(x_0)
        if k == 0:
            nats = -Normal(estimate, deviation).log_prob(x_0)
        else:
            with torch.no_grad():
                (truth, variance), (mean, _) = (posterior(schedule, z, x_t, up[k], t) for z in (x_0, estimate))
            nats = kl_divergence(Normal(truth, variance.sqrt()), Normal(mean, deviation))
        torch.testing.assert_close(bound.terms[:, k], bits(nats.mean(1)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", CHAINS)
def test_the_priors_term_is_the_divergence_at_time_1(name):
    schedule, steps = CHAINS[name]
    x_0, times = torch.randn(5, 2, dtype=torch.float64), chain_times(schedule, steps)
    with torch.no_grad():
        alpha, sigma = schedule(times[0])
    expected = bits(kl_divergence(Normal(alpha * x_0, sigma), Normal(0 * x_0, sigma)).mean(1))
    bound = variational_bound(Mixed(schedule, 0.0), x_0, times, Noise(0, torch.arange(5)))
    torch.testing.assert_close(bound.prior, expected, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(bound.total, bound.terms.sum(1) + bound.prior)


def expected_terms(schedule, times, variances):
    """Return the mean of each term over x_0 and eps for reverse steps of given variances, in bits per dimension."""
    alpha, sigma = levels_of(schedule, times)
    (small, large), known = ranges(schedule, times), remaining_variances(schedule, times)
    terms = [0.5 * ((2 * math.pi * variances[0]).log() + known[0] / variances[0])]
    for k in range(1, len(known)):
        gain = alpha[k] * large[k] / sigma[k + 1] ** 2
        ratio = small[k] / variances[k]
        terms.append(0.5 * (ratio - 1 - ratio.log() + gain**2 * known[k] / variances[k]))
    return bits(torch.stack(terms).mean(1))


def variances_of(schedule, times, mix):
    """Return the variances of a chain for a mix; fixed ones take the small variance for the step to clean data."""
    shares = [mix] * (len(times) - 1) if isinstance(mix, torch.Tensor) else [0.0, *[mix] * (len(times) - 2)]
    return [
        (small ** (1 - share) * large**share) * torch.ones_like(VARIANCE)
        for small, large, share in zip(*ranges(schedule, times), shares, strict=True)
    ]


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", CHAINS)
def test_the_mean_of_each_term_is_its_closed_form(name, mix):
    (schedule, steps), mix = CHAINS[name], MIXES[mix]
    times = chain_times(schedule, steps)
    bound = variational_bound(Mixed(schedule, mix), data_by_signs(), times, Signs())
    expected = expected_terms(schedule, times, variances_of(schedule, times, mix))
    torch.testing.assert_close(bound.terms.mean(0), expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("mix", MIXES)
def test_drawn_noise_gives_the_mean_of_each_term(mix):
    """At every step, 4,000 samples agree within four standard errors."""
    schedule, mix = Linear(40), MIXES[mix]
    times, denoiser = chain_times(schedule), Mixed(schedule, mix)
    x_0 = denoiser.sample(4000)
    terms = variational_bound(denoiser, x_0, times, Noise(0, torch.arange(4000))).terms
    expected = expected_terms(schedule, times, variances_of(schedule, times, mix))
    assert ((terms.mean(0) - expected).abs() < 4 * terms.std(0) / 4000**0.5).all()


TIGHT = {
    "linear 2": (Linear(2), None),
    "linear 5": (Linear(5), None),
    "linear 50": (Linear(50), None),
    "linear 1000": (Linear(1000), None),
    "cosine 2": (Cosine(2), None),
    "cosine 5": (Cosine(5), None),
    "cosine 1000": (Cosine(1000), None),
    "zero terminal 5": (Cosine(5, zero_terminal_snr=True), None),
    "linear 1000 in 2": (Linear(1000), 2),
    "linear 1000 in 30": (Linear(1000), 30),
    "vp": (VP(), 30),
    "sub_vp": (SubVP(), 30),
    "flow": (Flow(), 3),
    "edm": (EDM(), 30),
}


@pytest.mark.parametrize("name", TIGHT)
def test_with_the_best_variance_the_bound_is_the_likelihood(name):
    """For each x_0 it is -log q(x_0) plus the prior's mismatch, in few steps as in many."""
    schedule, steps = TIGHT[name]
    times, x_0 = chain_times(schedule, steps), data_by_signs()
    bound = variational_bound(Mixed(schedule, optimal_mix(schedule, times).get), x_0, times, Signs())
    alpha, sigma = schedule(times[0])
    x_1 = alpha * x_0 + sigma * Signs().like(x_0, None)
    mismatch = Normal(alpha * MEAN, (alpha**2 * VARIANCE + sigma**2).sqrt()).log_prob(x_1)
    mismatch = mismatch - Normal(torch.zeros_like(MEAN), sigma).log_prob(x_1)
    truth = bits((mismatch - Normal(MEAN, VARIANCE.sqrt()).log_prob(x_0)).mean(1))
    each = (value.reshape(4, 4).mean(1) for value in (bound.total, truth))  # over eps
    torch.testing.assert_close(*each, rtol=1e-7, atol=1e-8)
    assert bound.total.mean().item() == pytest.approx(entropy() + prior_mismatch(schedule), abs=1e-8)


@pytest.mark.parametrize("name", ["linear 5", "cosine 1000", "linear 1000 in 30", "vp", "edm"])
def test_the_best_variance_of_data_of_variance_below_1_lies_in_the_range(name):
    """For the step to clean data it lies below the upper end."""
    schedule, steps = TIGHT[name]
    mixes = torch.stack(list(optimal_mix(schedule, chain_times(schedule, steps)).values()))
    assert (mixes[1:] >= 0).all()
    assert (mixes <= 1).all()


@pytest.mark.parametrize("name", ["linear 5", "cosine 5", "linear 50", "linear 1000 in 30", "vp", "edm"])
def test_with_another_variance_the_bound_is_larger(name):
    schedule, steps = TIGHT[name]
    times = chain_times(schedule, steps)
    mix = optimal_mix(schedule, times)

    def terms(mix):
        return variational_bound(Mixed(schedule, mix), data_by_signs(), times, Signs()).terms.mean(0)

    best = terms(mix.get)
    # The decoder of a continuous schedule has no variance to choose.
    choice = slice(None) if schedule.num_steps is not None else slice(1, None)
    for other in (lambda t: mix[t] + 0.1, lambda t: mix[t] - 0.1):
        assert (terms(other) > best)[choice].all()
    for fixed in (0.0, 1.0):
        assert (terms(fixed) > best - 1e-12).all()
        assert terms(fixed).sum() > best.sum() + 1e-6


@pytest.mark.parametrize("schedule", [VE(), CosineContinuous(), learned()], ids=["ve", "cosine_continuous", "learned"])
def test_where_sigma_is_above_0_at_time_0_all_steps_but_the_last_can_be_tight(schedule):
    """The decoder has the variance sigma_0^2 / alpha_0^2, whose cost above the best variance is known."""
    times = chain_times(schedule, 30)
    bound = variational_bound(Mixed(schedule, optimal_mix(schedule, times).get), data_by_signs(), times, Signs())
    ratio = remaining_variances(schedule, times)[0] / ranges(schedule, times)[0][0]
    excess = bits(0.5 * (ratio - 1 - ratio.log()).mean().item())
    with torch.no_grad():
        expected = entropy() + prior_mismatch(schedule) + excess
    assert bound.total.mean().item() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    ("schedule", "mix", "gap"),
    [
        (VE(), 0.0, 0.05),
        (learned(), 1.0, 0.01),
        (CosineContinuous(), 1.0, 0.01),
        (SubVP(), 1.0, 0.03),
        (Flow(), 1.0, 0.04),
        (VP(), 1.0, 0.2),
        (EDM(), 1.0, 0.3),
    ],
)
def test_a_thousand_steps_of_a_continuous_schedule_are_above_the_likelihood_and_close(schedule, mix, gap):
    """The gap is in bits per dimension.

    With the small variance, the first steps of the other schedules, even in t, are far from the likelihood.
    """
    bound = variational_bound(Mixed(schedule, mix), data_by_signs(), chain_times(schedule), Signs())
    assert torch.isfinite(bound.terms).all()
    with torch.no_grad():
        least = entropy() + prior_mismatch(schedule)
    assert least < bound.total.mean().item() < least + gap


def test_the_last_step_goes_to_clean_data_where_sigma_is_above_0_at_time_0():
    schedule, noise = VE(sigma_min=0.1), Noise(0, torch.arange(3))
    times = chain_times(schedule, 4)
    assert times.tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0, 0])
    denoiser = Mixed(schedule, 0.0)
    x_0 = denoiser.sample(3)
    zero = torch.zeros((), dtype=torch.float64)
    estimate = denoiser(x_0 + 0.1 * noise.at(0).like(x_0, Stream.VALIDATION), zero).x0
    expected = -bits(Normal(estimate, 0.1).log_prob(x_0).mean(1))
    torch.testing.assert_close(variational_bound(denoiser, x_0, times, noise).terms[:, 0], expected)


def test_the_bound_of_discrete_data_is_above_their_entropy_and_close():
    """The entropy of 17 equally likely levels is log2(17) bits."""
    levels = torch.linspace(-1, 1, 17, dtype=torch.float64)[:, None]
    denoiser = GaussianMixtureDenoiser(VE(), levels, torch.zeros(17, 1, 1, dtype=torch.float64))
    x_0 = levels.repeat(40, 1)
    times, noise = chain_times(denoiser.schedule, 600), Noise(0, torch.arange(len(x_0)))
    total = variational_bound(denoiser, x_0, times, noise, levels=17).total
    excess, error = total.mean().item() - math.log2(17), total.std().item() / len(x_0) ** 0.5
    assert -4 * error < excess < 0.05 + 4 * error


def links(schedule, times):
    """Return the chain of decreasing times, from the step to clean data upwards."""
    up = times.flip(0)
    step = step_between(schedule, up[:-1], up[1:])
    return chain(schedule, step, torch.arange(len(up) - 1) == 0, up[1], up[min(2, len(up) - 1)])


def test_the_log_variances_are_those_of_improved_diffusion():
    """Index i of posterior_log_variance_clipped and log(betas) in improved-diffusion is step i + 1."""
    betas = np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1 - betas)
    variance = betas * (1 - np.append(1, alpha_bar[:-1])) / (1 - alpha_bar)
    schedule = Linear(1000)
    full = links(schedule, chain_times(schedule))
    clipped = np.log(np.append(variance[1], variance[1:]))
    torch.testing.assert_close(full.log_small, torch.from_numpy(clipped), rtol=1e-9, atol=0)
    torch.testing.assert_close(full.log_large, torch.from_numpy(np.log(betas)), rtol=1e-9, atol=0)
    assert full.log_small[0].item() == pytest.approx(-9.816725135, abs=1e-9)
    assert full.log_small[0] == full.log_small[1]
    assert full.log_large[0].item() == pytest.approx(math.log(1e-4), abs=1e-9)


def code_length(mix):
    """The bits of L_0 of the linear chain for a given mix, and the variance that they imply."""
    schedule = Linear(1000)
    x_0 = torch.tensor([[0.25]], dtype=torch.float64)
    full = links(schedule, chain_times(schedule))
    term = bound_term(full.at(0), Denoised(x_0, x_0, mix), x_0, None)
    return math.exp(2 * math.log(2) * term.item()) / (2 * math.pi)


def test_the_variance_at_clean_data_is_that_of_index_1_if_it_is_fixed_and_reaches_beta_1_if_learned():
    for fixed in (0.0, 1.0):  # fixed_large too: np.append(posterior_variance[1], betas[1:])
        assert math.log(code_length(fixed)) == pytest.approx(-9.816725135, abs=1e-8)
    low, high = (code_length(torch.full((1, 1), end, dtype=torch.float64)) for end in (0.0, 1.0))
    assert math.log(low) == pytest.approx(-9.816725135, abs=1e-8)
    assert high == pytest.approx(1e-4, rel=1e-8)


def test_a_strided_chain_takes_the_variance_of_its_own_second_step():
    schedule = Linear(1000)
    strided = links(schedule, chain_times(schedule, 4))
    pair = step_between(schedule, *(torch.tensor(t, dtype=torch.float64) for t in (0.25, 0.5)))
    assert strided.log_small[0].item() == pytest.approx(math.log(pair.var_post.item()), abs=1e-12)
    assert strided.log_large[0].item() == pytest.approx(2 * math.log(schedule(torch.tensor(0.25))[1].item()), abs=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 50])
@pytest.mark.parametrize("mix", MIXES)
def test_terms_at_single_times_are_those_of_the_chain(num_steps, mix):
    """A training loss calls grid_term with a time for each sample."""
    schedule, noise = Linear(num_steps), Noise(0, torch.arange(3))
    denoiser = Mixed(schedule, MIXES[mix])
    x_0 = denoiser.sample(3)
    bound = variational_bound(denoiser, x_0, chain_times(schedule), noise)
    k = torch.tensor([1, num_steps, (num_steps + 1) // 2])
    t = k.double() / num_steps
    eps = torch.stack([noise.at(int(at) - 1).like(x_0, Stream.VALIDATION)[row] for row, at in enumerate(k)])
    alpha, sigma = (value[:, None] for value in schedule(t))
    x_t = alpha * x_0 + sigma * eps
    denoised = [denoiser(x_t[row : row + 1], t[row]) for row in range(3)]
    x0 = torch.cat([each.x0 for each in denoised])
    mixed = MIXES[mix].expand_as(x_0) if isinstance(MIXES[mix], torch.Tensor) else MIXES[mix]
    terms = grid_term(schedule, Denoised(x0, x0, mixed), x_0, t, None)
    torch.testing.assert_close(terms, bound.terms[torch.arange(3), k - 1], rtol=1e-10, atol=1e-12)


def test_a_detached_mean_leaves_gradients_to_the_variance_only():
    x_0 = torch.rand(3, 1, 2, 2, dtype=torch.float64)
    x0, mix = (torch.rand_like(x_0).requires_grad_() for _ in range(2))
    t = torch.tensor([0.1, 0.2, 1.0], dtype=torch.float64)
    values = []
    for detached in (False, True):
        terms = grid_term(Linear(10), Denoised(x0, x0, mix), x_0, t, 17, detach_mean=detached)
        values.append(terms)
        gradients = torch.autograd.grad(terms.sum(), [x0, mix], allow_unused=True)
        assert (gradients[0] is None) == detached
        assert (gradients[1] != 0).all()
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=0)


@pytest.mark.parametrize("levels", [None, 17, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_however_wrong_the_estimate_is(levels, dtype):
    """Early in training x0 may be hundreds, and in each row one of the two forms is not used."""
    x_0 = torch.linspace(-1, 1, 17, dtype=dtype).repeat(4, 1)
    x0 = (1e3 * torch.randn(4, 17, dtype=dtype)).requires_grad_()
    mix = torch.rand(4, 17, dtype=dtype).requires_grad_()
    t = torch.tensor([0.001, 0.002, 0.5, 1.0], dtype=torch.float64)
    terms = grid_term(Linear(1000), Denoised(x0, x0, mix), x_0, t, levels)
    assert torch.isfinite(terms).all()
    for gradient in torch.autograd.grad(terms.sum(), [x0, mix]):
        assert torch.isfinite(gradient).all()


def test_clipping_clamps_the_estimate_to_the_range():
    schedule, noise = Linear(10), Noise(0, torch.arange(3))

    class Wild(Denoiser):
        def forward(self, x_t, t, cond=None):
            return Denoised(3 * x_t, x_t)

    class Held(Denoiser):
        def forward(self, x_t, t, cond=None):
            return Denoised((3 * x_t).clamp(-1, 1), x_t)

    x_0 = torch.rand(3, 1, 2, 2, dtype=torch.float64)
    times = chain_times(schedule)
    wild, clipped, held = (
        variational_bound(kind(schedule), x_0, times, noise, 17, clip=clip).total
        for kind, clip in ((Wild, False), (Wild, True), (Held, False))
    )
    assert torch.equal(clipped, held)
    assert (wild > clipped).all()


def test_the_condition_and_the_progress_are_passed_on():
    reported, received = [], []

    class Keeping(Denoiser):
        def forward(self, x_t, t, cond=None):
            received.append((float(t), cond))
            return Denoised(x_t, x_t)

    cond = object()
    times = chain_times(Linear(4))
    variational_bound(
        Keeping(Linear(4)),
        torch.zeros(2, 3).double(),
        times,
        Noise(0, torch.arange(2)),
        cond=cond,
        progress=reported.append,
    )
    assert reported == [0, 1, 2, 3]
    assert received == [(t, cond) for t in (0.25, 0.5, 0.75, 1.0)]


def test_each_samples_bound_is_its_own():
    """It does not depend on the rest of the batch, and no graph is kept."""
    denoiser = Mixed(Linear(20), 1.0)
    x_0, noise, times = denoiser.sample(6), Noise(3, torch.arange(6)), chain_times(denoiser.schedule)
    whole = variational_bound(denoiser, x_0.requires_grad_(), times, noise).total
    assert not whole.requires_grad
    rows = [variational_bound(denoiser, x_0[i : i + 1], times, noise[i : i + 1]).total for i in range(6)]
    torch.testing.assert_close(torch.cat(rows), whole, rtol=1e-13, atol=0)


@pytest.mark.parametrize("levels", [None, 17])
@pytest.mark.parametrize("mix", ["fixed_small", "fixed_large", "learned_range"])
def test_the_bound_is_computed_on_the_device_of_the_data(mix, levels):
    """Times are on the CPU and the data on another device: no part of a term may stay on the CPU."""

    class Elsewhere(Denoiser):
        def forward(self, x_t, t, cond=None):
            return Denoised(x_t, x_t, torch.zeros_like(x_t) if mix == "learned_range" else MIXES[mix])

    x_0 = torch.zeros(3, 1, 2, 2, device="meta")
    for schedule in (Linear(4), VE()):
        times = chain_times(schedule, 4)
        total = variational_bound(Elsewhere(schedule), x_0, times, Noise(0, torch.arange(3)), levels).total
        assert total.device == x_0.device


def test_the_times_of_a_chain_are_its_grid():
    for grid in (1, 2, 7, 49, 1000):
        expected = torch.arange(grid, -1, -1, dtype=torch.float64) / grid
        assert torch.equal(chain_times(Linear(grid)), expected)


@pytest.mark.parametrize("grid", [10, 49, 100])
def test_strided_times_lie_on_the_grid_and_fall_strictly(grid):
    schedule = Cosine(grid)
    allowed = set((torch.arange(grid + 1, dtype=torch.float64) / grid).tolist())
    for steps in range(1, grid + 1):
        times = chain_times(schedule, steps)
        assert times.shape == (steps + 1,)
        assert set(times.tolist()) <= allowed
        assert times[0] == 1
        assert times[-1] == 0
        assert (times.diff() < 0).all()


def test_more_steps_than_the_grid_has_are_refused():
    with pytest.raises(ValueError, match=r"likelihood\.steps=11 is more than the schedule's 10 steps"):
        chain_times(Linear(10), 11)


@pytest.mark.parametrize("schedule", [VP(), SubVP(), Flow(), EDM(), VE(), learned(), CosineContinuous()])
@pytest.mark.parametrize("steps", [None, 1, 2, 3, 7])
def test_continuous_schedules_have_steps_even_in_log_snr(schedule, steps):
    times = chain_times(schedule, steps)
    assert len(times) == (1000 if steps is None else steps) + 1
    assert times[0] == 1
    assert times[-1] == 0
    spaced = times if schedule.clean_at_zero else times[:-1]  # the last step goes from 0 to clean data
    inside = spaced[(spaced >= schedule.t_min) & (spaced <= schedule.t_max)]
    strides = schedule.log_snr(inside).detach().diff()
    assert (strides > 0).all()
    torch.testing.assert_close(strides, strides.mean().expand_as(strides), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("schedule", [VP(), SubVP(), Flow(), EDM(), VE(), learned(), CosineContinuous()])
def test_the_terms_of_the_ends_are_the_priors_and_a_decoders_without_a_network(schedule):
    x_0, eps = torch.rand(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    with torch.no_grad():
        alpha, sigma = schedule(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64))
        ours = end_terms(schedule, x_0, eps, None)
    decoder = Normal(x_0 + sigma[0] / alpha[0] * eps, sigma[0] / alpha[0])
    prior = kl_divergence(Normal(alpha[1] * x_0, sigma[1]), Normal(0 * x_0, sigma[1]))
    torch.testing.assert_close(ours, bits((prior - decoder.log_prob(x_0)).mean(1)), rtol=1e-8, atol=0)


def test_the_prior_of_no_signal_costs_nothing():
    x_0, one = torch.randn(3, 4, dtype=torch.float64), torch.ones((), dtype=torch.float64)
    for schedule in (Flow(), Cosine(10, zero_terminal_snr=True), ScaledLinear(10, zero_terminal_snr=True)):
        assert (prior_term(schedule, x_0, one) == 0).all()


# The decoder


def test_the_normal_density_is_that_of_torch():
    x, mean, log_variance = (torch.randn(50, dtype=torch.float64) for _ in range(3))
    expected = Normal(mean, torch.exp(log_variance / 2)).log_prob(x)
    torch.testing.assert_close(log_normal_density(x, mean, log_variance), expected)
    torch.testing.assert_close(log_decoder(x, mean, log_variance, None), expected)


MEANS = torch.tensor([-1.7, -1.0, -0.93, 0.0, 0.03, 0.6, 1.0, 4.0])
LOG_VARIANCES = torch.tensor([-14.0, -9.8, -6.0, -2.0, 0.0, 3.0, 6.0])


def every_level(levels, dtype=torch.float64):
    """Return x, mean and log_variance (levels, 8, 7): all levels at all means and variances."""
    x = torch.linspace(-1, 1, levels, dtype=torch.float64).to(dtype)
    return torch.broadcast_tensors(x[:, None, None], MEANS.to(dtype)[:, None], LOG_VARIANCES.to(dtype))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_probabilities_of_all_levels_sum_to_1(levels, dtype, atol):
    total = log_level_probability(*every_level(levels, dtype), levels).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=atol)


@pytest.mark.parametrize("levels", [17, 256])
def test_a_probability_is_the_difference_of_cumulatives(levels):
    x, mean, log_variance = (value.numpy() for value in every_level(levels))
    half, deviation = 1 / (levels - 1), np.exp(log_variance / 2)
    high = np.where(x > 1 - half, np.inf, x + half)
    low = np.where(x < -1 + half, -np.inf, x - half)
    expected = scipy.stats.norm.cdf(high, mean, deviation) - scipy.stats.norm.cdf(low, mean, deviation)
    ours = log_level_probability(*every_level(levels), levels).exp()
    torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=0, atol=1e-13)


def test_the_first_and_last_bin_reach_to_infinity():
    x, log_variance = torch.tensor([-1.0, 1.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    beyond = log_level_probability(x, torch.tensor([-50.0, 50.0], dtype=torch.float64), log_variance, 17)
    assert (beyond.abs() < 1e-300).all()
    ours = log_level_probability(x, torch.zeros(2, dtype=torch.float64), log_variance, 17)
    expected = scipy.stats.norm.logcdf(-1 + 1 / 16)
    assert ours.tolist() == pytest.approx([expected, expected], rel=1e-12)


FAR = [  # x, mean, log_variance, levels: up to hundreds of thousands of standard deviations
    (0.0, 3.0, -2.0, 17),
    (0.0, 9.0, -4.0, 17),
    (0.125, -20.0, -9.8, 17),
    (-0.5, 1.5, -14.0, 256),
    (1.0, -8.0, -6.0, 17),
    (-1.0, 300.0, -9.0, 256),
    (0.5, -0.9, -20.0, 17),
    (0.25, 0.25, 6.0, 17),
    (-0.25, 40.0, 1.0, 256),
]


def in_many_digits(x, mean, log_variance, levels):
    """The log-probability and its derivatives by the mean and the log-variance, in 60 digits."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        half, deviation = mpmath.mpf(1) / (levels - 1), mpmath.exp(mpmath.mpf(log_variance) / 2)
        high, low = (x + half - mpmath.mpf(mean)) / deviation, (x - half - mpmath.mpf(mean)) / deviation
        high, low = mpmath.inf if x == 1 else high, -mpmath.inf if x == -1 else low

        def tail(z):
            return mpmath.erfc(z / mpmath.sqrt(2)) / 2

        probability = tail(low) - tail(high) if low > 0 else tail(-high) - tail(-low)

        def density(z):
            return mpmath.npdf(z) if mpmath.isfinite(z) else mpmath.mpf(0)

        def moment(z):
            return z * mpmath.npdf(z) if mpmath.isfinite(z) else mpmath.mpf(0)

        by_mean = (density(low) - density(high)) / deviation / probability
        by_log_variance = (moment(low) - moment(high)) / 2 / probability
        return [float(value) for value in (mpmath.log(probability), by_mean, by_log_variance)]


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 2e-3), (torch.float64, 1e-7)])
@pytest.mark.parametrize("case", FAR)
def test_far_tails_and_their_gradients_keep_their_digits(case, dtype, rtol):
    *numbers, levels = case
    x, mean, log_variance = (torch.tensor(value, dtype=dtype) for value in numbers)
    mean.requires_grad_()
    log_variance.requires_grad_()
    ours = log_level_probability(x, mean, log_variance, levels)
    gradients = torch.autograd.grad(ours, [mean, log_variance])
    exact = in_many_digits(*(value.double().item() for value in (x, mean, log_variance)), levels)
    for value, expected in zip((ours, *gradients), exact, strict=True):
        assert value.item() == pytest.approx(expected, rel=rtol, abs=rtol / 100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [17, 256])
def test_the_decoder_is_finite_everywhere_with_its_gradients(levels, dtype):
    x = torch.linspace(-1, 1, levels, dtype=dtype)[:, None, None]
    far = torch.tensor([0.1, 1, 5, 30, 1e3], dtype=dtype)
    mean = torch.cat([far, -far, torch.zeros(1, dtype=dtype)])[:, None]
    log_variance = torch.tensor([-25.0, -15, -9.8, -5, 0, 5, 12], dtype=dtype)
    x, mean, log_variance = (value.clone().requires_grad_() for value in torch.broadcast_tensors(x, mean, log_variance))
    ours = log_level_probability(x, mean, log_variance, levels)
    assert torch.isfinite(ours).all()
    assert (ours <= 0).all()
    for gradient in torch.autograd.grad(ours.sum(), [mean, log_variance]):
        assert torch.isfinite(gradient).all()
