"""Noise that is correlated over the frames of clips has the covariance of its formula, in the process alone.

In whitened coordinates nothing changes.
"""

import pytest
import torch
from options import names, option
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from diffsweep.diffusion import (
    INDEPENDENT,
    Condition,
    Frames,
    GaussianDenoiser,
    GaussianMixtureDenoiser,
    IndependentNoise,
    Known,
    Noise,
    ProgressiveNoise,
    SharedNoise,
    StepNoise,
    Stream,
    add_noise,
)
from diffsweep.diffusion.exact import of_clips
from diffsweep.guidance import ClassifierGuidance, Reconstruction
from diffsweep.schedules import VP

LAWS = {
    "shared": SharedNoise(0.4),
    "key_frame": SharedNoise(0.4, key_frame=True),
    "progressive": ProgressiveNoise(0.7),
}
FORMULAS = {  # of the covariance of frames i and j, by what is shared, with middle frame k
    "shared": lambda i, j, k, share=0.4: 1.0 if i == j else share,
    "key_frame": lambda i, j, k, share=0.4: 1.0 if i == j else share**0.5 if k in (i, j) else share,
    "progressive": lambda i, j, k, share=0.7: share ** abs(i - j),
}
laws = pytest.mark.parametrize("name", LAWS)
PROCESS = (Stream.STEP, Stream.PRIOR, Stream.EPS, Stream.VALIDATION, Stream.RAISE, Stream.KNOWN)
F, S = 4, 2  # clips of 1 x F x 1 x S numbers
SHAPE, SIZE = (1, F, 1, S), F * S


def formula(name, frames, **changes):
    rows = [[FORMULAS[name](i, j, frames // 2, **changes) for j in range(frames)] for i in range(frames)]
    return torch.tensor(rows, dtype=torch.float64)


def of_all(name):
    """Return the covariance of a clip's numbers, frame by frame."""
    return torch.kron(formula(name, F), torch.eye(S, dtype=torch.float64))


@laws
@pytest.mark.parametrize("frames", [1, 2, 4, 7])
def test_covariance_is_its_formula_exactly(name, frames):
    """The images of unit vectors show it, and that channels and places are independent; a frame's variance is 1."""
    law, expected = LAWS[name], formula(name, frames)
    torch.testing.assert_close(law.covariance(frames), expected, rtol=0, atol=1e-14)
    root = of_clips(law, (2, frames, 1, 3))
    of_numbers = torch.kron(torch.kron(torch.eye(2).double(), expected), torch.eye(3).double())
    torch.testing.assert_close(root.T @ root, of_numbers, rtol=0, atol=1e-14)
    assert torch.equal(of_numbers.diagonal(), torch.ones(6 * frames).double())


def test_the_key_frame_is_the_base_of_the_others():
    z = Noise(0, torch.arange(3)).normal(2, 5, 3, 3, stream=Stream.EPS, dtype=torch.float64)
    eps = LAWS["key_frame"].colour(z)
    base, own = LAWS["key_frame"].weights(5)
    assert base.tolist() == [0.4**0.5, 0.4**0.5, 1.0, 0.4**0.5, 0.4**0.5]
    assert torch.equal(eps[:, :, 2], z[:, :, 2])
    for i in range(5):
        torch.testing.assert_close(eps[:, :, i], base[i] * z[:, :, 2] + own[i] * z[:, :, i])


@laws
def test_draws_have_the_covariance(name):
    """40,000 clips agree within 4.5 standard errors; a share of 0.55 would not."""
    count = 40_000
    eps = Noise(0, torch.arange(count), clips=LAWS[name]).normal(1, F, 1, 1, stream=Stream.EPS)[:, 0, :, 0, 0].double()
    expected = formula(name, F)
    bound, measured = 4.5 * ((1 + expected**2) / count).sqrt(), eps.T @ eps / count
    assert ((measured - expected).abs() < bound).all()
    others = ~torch.eye(F, dtype=torch.bool)
    assert ((measured - formula(name, F, share=0.55)).abs() > bound)[others].all()


@laws
def test_only_the_draws_of_the_process_are_correlated(name):
    law, indices, x = LAWS[name], torch.tensor([5, 2**33, 0]), torch.empty(3, 2, F, 3, 3)
    white, ours = Noise(1, indices, 4), Noise(1, indices, 4, law)
    for stream in Stream:
        plain = white.like(x, stream)
        expected = law.colour(plain) if stream in PROCESS else plain
        assert torch.equal(ours.like(x, stream), expected)
        assert torch.equal(ours.normal(2, F, 3, 3, stream=stream), expected)
        assert torch.equal(ours.uniform(2, F, stream=stream), white.uniform(2, F, stream=stream))
    ahead = StepNoise(ours, 7, temperature=0.5, at_most=3)
    for step in range(7):
        drawn = ours.at(step).like(x)
        assert torch.equal(drawn, law.colour(white.at(step).like(x)))
        assert torch.equal(ahead.at(step).like(x), 0.5 * drawn)
        assert torch.equal(ahead[1:].at(step).like(x[1:]), 0.5 * drawn[1:])


@laws
@pytest.mark.parametrize("frames", [2, 9])
def test_a_clip_has_the_same_noise_in_any_batch(name, frames):
    """It is the same to the bit, for any number of frames."""
    whole = Noise(3, torch.arange(13), clips=LAWS[name]).normal(3, frames, 5, 7, stream=Stream.STEP)
    for row in (0, 12):
        alone = Noise(3, torch.tensor([row]), clips=LAWS[name]).normal(3, frames, 5, 7, stream=Stream.STEP)
        assert torch.equal(alone[0], whole[row])


@pytest.mark.parametrize(
    "law", [SharedNoise(0), SharedNoise(0, key_frame=True), ProgressiveNoise(0), IndependentNoise()]
)
def test_noise_with_a_share_of_0_is_independent_noise_to_the_bit(law):
    indices = torch.arange(4)
    for stream in PROCESS:
        draws = [Noise(0, indices, clips=each).normal(1, 5, 3, 3, stream=stream) for each in (law, INDEPENDENT)]
        assert torch.equal(*draws)
    assert torch.equal(law.covariance(5), torch.eye(5).double())


def test_images_are_refused_by_correlated_noise():
    with pytest.raises(ValueError, match="use noise=independent"):
        Noise(0, torch.arange(2), clips=SharedNoise()).normal(1, 8, 8, stream=Stream.EPS)


@pytest.mark.parametrize(("kind", "key"), [(SharedNoise, "noise.share"), (ProgressiveNoise, "noise.correlation")])
@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_a_share_lies_below_1(kind, key, value):
    with pytest.raises(ValueError, match=key):
        kind(value)


def data(components=3):
    """Return means, covariances and weights of a mixture of Gaussian clips."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(components, SIZE, generator=generator, dtype=torch.float64) / 2
    roots = torch.randn(components, SIZE, SIZE, generator=generator, dtype=torch.float64) / 5
    return means, roots @ roots.mT, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)[:components]


def marginal(name, t, components=3):
    """Return the distribution of x_t, by torch.distributions."""
    means, covariances, weights = data(components)
    alpha, sigma = VP()(t)
    parts = MultivariateNormal(alpha * means, alpha**2 * covariances + sigma**2 * of_all(name))
    return MixtureSameFamily(Categorical(weights), parts)


@laws
def test_exact_denoisers_use_the_covariance_of_the_noise(name):
    """E[x_0 | x_t] and the density of x_t are their formulas, and eps = -sigma Sigma score."""
    (means, covariances, weights), t = data(), torch.tensor(0.4, dtype=torch.float64)
    alpha, sigma = VP()(t)
    x = torch.randn(5, SIZE, dtype=torch.float64, requires_grad=True)
    clips = x.detach().reshape(5, *SHAPE)
    one = GaussianDenoiser(VP(), means[0], covariances[0], noise=LAWS[name], shape=SHAPE)(clips, t)
    gain = alpha * covariances[0] @ torch.linalg.inv(alpha**2 * covariances[0] + sigma**2 * of_all(name))
    expected = means[0] + (x.detach() - alpha * means[0]) @ gain.T
    torch.testing.assert_close(one.x0.flatten(1), expected)
    torch.testing.assert_close(alpha * one.x0 + sigma * one.eps, clips)
    mixture = GaussianMixtureDenoiser(VP(), means, covariances, weights, noise=LAWS[name], shape=SHAPE)
    log_density = marginal(name, t).log_prob(x)
    torch.testing.assert_close(mixture.log_density(clips, t), log_density.detach())
    (score,) = torch.autograd.grad(log_density.sum(), x)
    torch.testing.assert_close(mixture(clips, t).eps.flatten(1), -sigma * score @ of_all(name))
    draws = mixture.sample(20_000, torch.Generator().manual_seed(1))
    assert (draws.mean(0) - weights @ means).abs().max() < 4.5 * float(draws.std(0).max()) / 20_000**0.5


@pytest.mark.parametrize("sampler", names("sampler"))
def test_every_sampler_is_the_same_as_in_whitened_coordinates(sampler):
    """Samples under correlated noise are, number by number, the linear image of those of whitened data.

    So each solver and each stochastic step is as exact as under independent noise, for any number of steps.
    """
    name = "key_frame" if sampler in ("ddim", "heun") else "progressive"
    law, (means, covariances, weights) = LAWS[name], data()
    own = {"ddim": {"eta": 0.7}, "heun": {"s_churn": 2.0}, "ode": {"tolerance": 1e-6}}
    changes = {"steps": 4, "clip": "none"} | own.get(sampler, {})
    sample = option("sampler", sampler, **changes)
    root = of_clips(law, SHAPE)
    back = torch.linalg.inv(root)
    whitened = GaussianMixtureDenoiser(VP(), means @ back, back.T @ covariances @ back, weights)
    ours = GaussianMixtureDenoiser(VP(), means, covariances, weights, noise=law, shape=SHAPE)
    indices, at_one = torch.arange(6), VP()(torch.ones((), dtype=torch.float64))[1]
    starts = [
        (
            noise := Noise(2, indices, clips=clips),
            at_one * noise.normal(*SHAPE, stream=Stream.PRIOR, dtype=torch.float64),
        )
        for clips in (law, INDEPENDENT)
    ]
    ends = [sample(denoiser, x, noise=noise) for denoiser, (noise, x) in zip((ours, whitened), starts, strict=True)]
    near = 1e-4 if sampler == "ode" else 1e-9  # an adaptive solver chooses its steps by its errors
    torch.testing.assert_close(ends[0], law.colour(ends[1]), rtol=near, atol=near)
    assert (ends[0] - ends[1]).abs().max() > 0.05


def test_a_sampler_that_is_given_no_noise_draws_that_of_its_denoiser():
    means, covariances, weights = data()
    denoiser = GaussianMixtureDenoiser(VP(), means, covariances, weights, noise=LAWS["shared"], shape=SHAPE)
    x, sample = torch.randn(3, *SHAPE, dtype=torch.float64), option("sampler", "ancestral", steps=3, clip="none")
    torch.manual_seed(4)
    ours = sample(denoiser, x)
    torch.manual_seed(4)
    noise = Noise(int(torch.randint(2**62, ())), torch.arange(3), clips=LAWS["shared"])
    assert torch.equal(ours, sample(denoiser, x, noise=noise))


KNOWN = torch.tensor([True, False, True, False])


def condition_on_frames(count):
    known = data()[0][1].reshape(1, *SHAPE).expand(count, *SHAPE)
    return Condition(known=Known(Frames(KNOWN.expand(count, -1)), known))


def noisy(t, count=4):
    x_0 = data()[0][0].expand(count, -1).reshape(count, *SHAPE)
    return add_noise(VP(), x_0, t, torch.randn(count, *SHAPE, dtype=torch.float64))


@laws
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_reconstruction_by_the_posterior_covariance_is_the_conditional_mean(name, t):
    """It is E[x_0 | x_t, x^a] of the joint Gaussian, in which known and other frames have correlated noise."""
    (mean, *_), (covariance, *_), _ = data()
    t = torch.tensor(t, dtype=torch.float64)
    (alpha, sigma), x_t, cond = VP()(t), noisy(t), condition_on_frames(4)
    exact = GaussianDenoiser(VP(), mean, covariance, noise=LAWS[name], shape=SHAPE)
    ours = Reconstruction(exact, weight="covariance", tolerance=1e-13, iterations=50)(x_t, t, cond)
    a = KNOWN.repeat_interleave(S)
    observation = torch.cat([torch.eye(SIZE)[a], alpha * torch.eye(SIZE).double()])  # the matrix of x_0 in x^a and x_t
    of_observation = observation @ covariance @ observation.T
    of_observation[int(a.sum()) :, int(a.sum()) :] += sigma**2 * of_all(name)
    values = torch.cat([cond.known.y.flatten(1)[:, a], x_t.flatten(1)], 1)
    expected = mean + (values - observation @ mean) @ torch.linalg.solve(of_observation, observation @ covariance)
    torch.testing.assert_close(ours.x0.flatten(1), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(alpha * ours.x0 + sigma * ours.eps, x_t)


@laws
def test_the_scalar_form_takes_the_widest_posterior_for_known_frames(name):
    """The expected value is found by central differences.

    It is x_0^b + s sigma^2 / alpha (Sigma grad log N(x^a; x_0^a(x_t), (sigma / alpha)^2 Sigma^aa))^b.
    """
    (mean, *_), (covariance, *_), _ = data()
    t = torch.tensor(0.3, dtype=torch.float64)
    (alpha, sigma), x_t, cond, h = VP()(t), noisy(t, 1), condition_on_frames(1), 1e-4
    exact = GaussianDenoiser(VP(), mean, covariance, noise=LAWS[name], shape=SHAPE)
    a = KNOWN.repeat_interleave(S)
    of_known = (sigma / alpha) ** 2 * of_all(name)[a][:, a]
    moved = x_t.flatten() + h * torch.cat([torch.eye(SIZE), -torch.eye(SIZE)]).double()
    estimate = exact(moved.reshape(-1, *SHAPE), t).x0.flatten(1)[:, a]
    log = MultivariateNormal(cond.known.y.flatten()[a], of_known).log_prob(estimate)
    gradient = (log[:SIZE] - log[SIZE:]) / (2 * h)
    expected = exact(x_t, t).x0.flatten() + 2.0 * sigma**2 / alpha * of_all(name) @ gradient
    ours = Reconstruction(exact, scale=2.0)(x_t, t, cond).x0.flatten()
    torch.testing.assert_close(ours[~a], expected[~a], rtol=1e-6, atol=1e-7)
    assert torch.equal(ours[a], cond.known.y.flatten()[a])


@laws
def test_classifier_guidance_adds_the_gradient_to_the_score(name):
    """eps = -sigma Sigma (score + s grad log p(y | x_t)), with the densities of torch.distributions."""
    (means, covariances, weights), t = data(), torch.tensor(0.6, dtype=torch.float64)
    classes, (alpha, sigma), x_t = torch.tensor([0, 1, 0]), VP()(t), noisy(t)
    exact = GaussianMixtureDenoiser(VP(), means, covariances, weights, None, classes, LAWS[name], SHAPE)
    y = torch.tensor([0, 1, 1, 0])
    plain = GaussianMixtureDenoiser(VP(), means, covariances, weights, noise=LAWS[name], shape=SHAPE)
    ours = ClassifierGuidance(plain, lambda: exact, scale=1.5)(x_t, t, Condition(vector=y))
    x = x_t.flatten(1).requires_grad_()
    parts = MultivariateNormal(alpha * means, alpha**2 * covariances + sigma**2 * of_all(name))
    joint = weights.log() + parts.log_prob(x[:, None])  # (B, K)
    of_class = joint.masked_fill(classes != y[:, None], -torch.inf).logsumexp(1)
    tilted = joint.logsumexp(1) + 1.5 * (of_class - joint.logsumexp(1))
    (score,) = torch.autograd.grad(tilted.sum(), x)
    torch.testing.assert_close(ours.eps.flatten(1), -sigma * score @ of_all(name))
    torch.testing.assert_close(alpha * ours.x0 + sigma * ours.eps, x_t)
