"""Classifier-free guidance against its formula over exact densities."""

import itertools

import pytest
import torch

from diffsweep.diffusion import AsPredicted, Condition, Denoised, Denoiser, Eps, GaussianMixtureDenoiser, V, counting
from diffsweep.guidance import ClassifierFreeGuidance, ClassifierGuidance, composed
from diffsweep.samplers import DDIM, Heun
from diffsweep.schedules import VE, Cosine, Flow, Linear

MEANS = torch.tensor([[0.6, 0.5], [-0.6, 0.2], [0.1, -0.7]], dtype=torch.float64)
ROOTS = torch.tensor([[[0.3, 0.0], [0.1, 0.2]], [[0.2, 0.0], [-0.1, 0.25]], [[0.25, 0.0], [0.0, 0.15]]]).double()
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
CLASSES = torch.tensor([0, 1, 0])


def exact(schedule, prediction=None):
    return GaussianMixtureDenoiser(schedule, MEANS, ROOTS @ ROOTS.mT, WEIGHTS, prediction, CLASSES)


def log_density(x_t, t, schedule, label=None):
    """Return the log-density of the mixture's marginal at t, given a class if any, with torch's distributions."""
    alpha, sigma = schedule(t)
    covariance = alpha**2 * ROOTS @ ROOTS.mT + sigma**2 * torch.eye(2).double()
    parts = torch.distributions.MultivariateNormal(alpha * MEANS, covariance).log_prob(x_t[:, None])  # (B, 3)
    weights = WEIGHTS if label is None else torch.where(label == CLASSES, WEIGHTS, 0)
    return (parts + (weights / weights.sum()).log()).logsumexp(1)


def score(x_t, t, schedule, label=None):
    x = x_t.clone().requires_grad_()
    return torch.autograd.grad(log_density(x, t, schedule, label).sum(), x)[0]


def points(count=16):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


SCHEDULES = {"cosine": Cosine(1000), "ve": VE(), "flow": Flow(), "zero": Linear(1000, zero_terminal_snr=True)}
TIMES = [0.02, 0.3, 0.7, 0.999]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 7.5])
def test_the_score_is_the_combination_of_exact_scores(name, scale):
    schedule, x = SCHEDULES[name], points()
    for t, label in itertools.product(TIMES, (0, 1)):
        t = torch.tensor(t, dtype=torch.float64)
        expected = scale * score(x, t, schedule, label) - (scale - 1) * score(x, t, schedule)
        guided = ClassifierFreeGuidance(AsPredicted(exact(schedule), V()), scale=scale)
        denoised = guided(x, t, Condition(vector=torch.full((16,), label)))
        alpha, sigma = schedule(t)
        torch.testing.assert_close(-denoised.eps / sigma, expected, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(alpha * denoised.x0 + sigma * denoised.eps, x, rtol=1e-9, atol=1e-9)


def test_scale_one_is_the_conditional_model_bit_for_bit():
    denoiser, cond, x = exact(Cosine(1000)), Condition(vector=CLASSES.repeat(4)), points(12)
    for t in torch.tensor([0.01, 0.5, 1.0], dtype=torch.float64):
        plain, guided = denoiser(x, t, cond), ClassifierFreeGuidance(denoiser, scale=1)(x, t, cond)
        assert torch.equal(plain.x0, guided.x0)
        assert torch.equal(plain.eps, guided.eps)
    sampler = DDIM(steps=7)
    assert torch.equal(sampler(denoiser, x, cond), sampler(ClassifierFreeGuidance(denoiser, scale=1), x, cond))


@pytest.mark.parametrize(
    ("settings", "calls", "rows"),
    [
        ({"scale": 3.0}, 10, 20),
        ({"scale": 1.0}, 10, 10),
        ({"scale": 0.0}, 10, 10),
        ({"scale": 3.0, "interval": [0.2, 0.75]}, 10, 15),  # t = 0.7, 0.6, ..., 0.3 and 0.2 but for rounding
        ({"scale": [1, 1, 2, 2, 2, 1, 1, 1, 1, 0]}, 10, 13),
    ],
)
def test_the_network_is_called_once_a_step(settings, calls, rows):
    denoiser, schedule = exact(Flow()), Flow()
    sampler = DDIM(steps=10)
    if "interval" in settings:
        settings = {**settings, "interval": [0.25, 0.75]}
    guided = ClassifierFreeGuidance(denoiser, **settings, times=sampler.times(schedule))
    with counting(denoiser) as count:
        sampler(guided, points(4), Condition(vector=torch.tensor([0, 1, 0, 1])))
    assert (count.calls, count.rows) == (calls, 4 * rows)


class Heads(Denoiser):
    """A denoiser with another eps for each class, and the class as its variance_mix."""

    def forward(self, x_t, t, cond=None):
        label = cond.vector.double() if cond.is_null is None else torch.where(cond.is_null, -1.0, cond.vector.double())
        shape = (len(x_t), *[1] * (x_t.ndim - 1))
        eps = (x_t * (1 + 0.3 * label).reshape(shape)).sin()
        alpha, sigma = (value if value.ndim == 0 else value.reshape(shape) for value in self.schedule(t))
        return Denoised((x_t - sigma * eps) / alpha, eps, label.reshape(shape).expand_as(x_t))


def test_the_variance_is_that_of_the_condition():
    guided = ClassifierFreeGuidance(Heads(Cosine(1000)), scale=3)
    denoised = guided(torch.randn(4, 1, 3, 3), torch.tensor(0.5), Condition(vector=torch.tensor([0, 1, 2, 3])))
    assert denoised.variance_mix[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("prediction", [Eps(), V()])
@pytest.mark.parametrize("rescale", [0.3, 0.7, 1.0])
def test_rescaling_gives_the_deviation_of_the_conditional_output(prediction, rescale):
    """The expected output is that of equations 15 and 16 of arXiv:2305.08891, in the units of the prediction."""
    schedule, x, t = Cosine(1000), torch.randn(4, 3, 5, 5, dtype=torch.float64), torch.tensor(0.6).double()
    denoiser, cond = Heads(schedule, prediction), Condition(vector=torch.tensor([0, 1, 2, 3]))
    alpha, sigma = schedule(t)

    def output(denoised):
        return prediction.target(denoised.x0, denoised.eps, alpha, sigma)

    towards, away = output(denoiser(x, t, cond)), output(denoiser(x, t, cond.null()))
    combined = away + 4 * (towards - away)
    ratio = torch.stack([a.std() / b.std() for a, b in zip(towards, combined, strict=True)])[:, None, None, None]
    expected = rescale * combined * ratio + (1 - rescale) * combined
    guided = ClassifierFreeGuidance(denoiser, scale=4, rescale=rescale)(x, t, cond)
    torch.testing.assert_close(output(guided), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(alpha * guided.x0 + sigma * guided.eps, x, rtol=1e-9, atol=1e-9)


def test_a_negative_condition_replaces_the_null_condition():
    denoiser, x, t = Heads(Cosine(1000)), torch.randn(2, 1, 3, 3, dtype=torch.float64), torch.tensor(0.4).double()
    towards, away = Condition(vector=torch.tensor([3, 1])), Condition(vector=torch.tensor([2, 2]))
    cond = Condition(vector=towards.vector, negative=away)
    guided = ClassifierFreeGuidance(denoiser, scale=2.5)(x, t, cond)
    expected = 2.5 * denoiser(x, t, towards).eps - 1.5 * denoiser(x, t, away).eps
    torch.testing.assert_close(guided.eps, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(ClassifierFreeGuidance(denoiser, scale=0)(x, t, cond).eps, denoiser(x, t, away).eps)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_shapes_have_mean_one_and_grow_towards_the_data(shape):
    guided = ClassifierFreeGuidance(exact(Flow()), scale=4.0, shape=shape)
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    scales = guided.scale_at(t)
    assert torch.trapezoid(scales, t).item() == pytest.approx(4.0, rel=1e-6)
    assert (scales.diff() <= 0).all()
    assert scales[-1].item() == pytest.approx(1.0)
    assert [guided.scale_at(t[i]) for i in (0, 5000)] == pytest.approx([scales[0].item(), scales[5000].item()])


def test_each_step_has_its_scale():
    sampler, schedule = DDIM(steps=4), Flow()
    times, scales = sampler.times(schedule), [1.5, 4.0, 2.0, 3.0]
    guided = ClassifierFreeGuidance(exact(schedule), scale=scales, times=times)
    assert [guided.scale_at(t) for t in times[:-1]] == scales
    assert guided.scale_at(times[:-1]).tolist() == scales
    assert guided.scale_at(torch.tensor([0.9, 0.6, 0.51, 0.1])).tolist() == [1.5, 4.0, 4.0, 3.0]
    cond, x = Condition(vector=torch.tensor([0, 1])), points(2)
    for t, s, scale in zip(times[:-1], times[1:], scales, strict=True):  # step by step with each scale alone
        denoised = ClassifierFreeGuidance(exact(schedule), scale=scale)(x, t, cond)
        x = (1 - s) * denoised.x0.clamp(-1, 1) + s * (x - (1 - t) * denoised.x0.clamp(-1, 1)) / t
    torch.testing.assert_close(sampler(guided, points(2), cond), x, rtol=1e-9, atol=1e-9)


def test_each_row_may_have_its_time():
    guided = ClassifierFreeGuidance(exact(Flow()), scale=3.0, shape="linear", interval=[0.1, 0.8])
    cond, x, t = Condition(vector=torch.tensor([0, 1, 1, 0])), points(4), torch.tensor([0.05, 0.3, 0.5, 0.9]).double()
    together = guided(x, t, cond).eps
    alone = [guided(x[i : i + 1], t[i], cond[i : i + 1]).eps for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)


def test_guidance_of_guidance_adds_up():
    """Classifier guidance of scale a is within or around classifier-free guidance of scale s, on exact densities.

    With the perfect classifier it adds a (score of the class - score of all data).
    """
    schedule, x, t = Cosine(1000), points(), torch.tensor(0.4, dtype=torch.float64)
    denoiser, cond = exact(schedule), Condition(vector=torch.ones(16, dtype=torch.int64))
    towards, away = score(x, t, schedule, 1), score(x, t, schedule)
    guided = composed(
        denoiser,
        inner=lambda d, times: ClassifierFreeGuidance(d, scale=2.0),
        outer=lambda d, times: ClassifierGuidance(d, lambda: denoiser, scale=1.5),
    )
    expected = 2 * towards - away + 1.5 * (towards - away)
    torch.testing.assert_close(-guided(x, t, cond).eps / schedule(t)[1], expected, rtol=1e-6, atol=1e-8)
    other = ClassifierFreeGuidance(ClassifierGuidance(denoiser, lambda: denoiser, scale=1.5), scale=2.0)
    # The classifier does not guide the null condition: s (c + a g) - (s - 1) u.
    expected = 2 * (towards + 1.5 * (towards - away)) - away
    torch.testing.assert_close(-other(x, t, cond).eps / schedule(t)[1], expected, rtol=1e-6, atol=1e-8)


def test_guided_samples_are_not_those_of_the_tilted_density():
    """Guided samples are those of the guided ODE; at scale 3 their mean is not that of p(x) p(y|x)^3."""
    schedule = Flow()
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cond = Condition(vector=torch.ones(500, dtype=torch.int64))
    guided = ClassifierFreeGuidance(exact(schedule), scale=3.0)
    ours, finer = (Heun(steps=steps, clip="none")(guided, x, cond) for steps in (100, 300))
    assert (ours - finer).norm(dim=1).mean() < 1e-3
    draws = exact(schedule).sample(50_000, torch.Generator().manual_seed(2))
    zero = torch.tensor(schedule.t_min, dtype=torch.float64)
    tilt = 3 * exact(schedule).log_prob(draws, zero)[:, 1].exp()
    tilted_mean = (tilt[:, None] * draws).sum(0) / tilt.sum()
    assert (ours.mean(0) - tilted_mean).norm() > 0.05


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"scale": float("nan")}, "guidance.scale must be finite"),
        ({"scale": [1.0, 2.0], "times": torch.linspace(1, 0, 4)}, "has 2 values for 3 steps"),
        ({"scale": [1.0, 2.0]}, "pass the times of the sampler's steps"),
        ({"scale": [1.0, 2.0], "times": torch.linspace(1, 0, 3), "shape": "linear"}, "leave guidance.shape=constant"),
        ({"shape": "square"}, "guidance.shape is one of constant, linear, cosine, not square"),
        ({"interval": [0.5, 0.2]}, "guidance.interval is two times"),
        ({"interval": [0.5]}, "guidance.interval is two times"),
        ({"rescale": 1.2}, r"guidance.rescale lies in \[0, 1\]"),
    ],
)
def test_wrong_settings_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        ClassifierFreeGuidance(exact(Flow()), **settings)


def test_without_a_condition_it_is_refused():
    with pytest.raises(ValueError, match="needs a condition to guide towards"):
        ClassifierFreeGuidance(exact(Flow()))(points(2), torch.tensor(0.5))
