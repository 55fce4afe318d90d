"""Reconstruction and replacement guidance on Gaussian clips, whose conditional distributions have a closed form."""

import math

import pytest
import torch

from diffsweep.diffusion import (
    AsPredicted,
    Condition,
    Denoised,
    Denoiser,
    Eps,
    Frames,
    GaussianDenoiser,
    Known,
    NetworkDenoiser,
    Noise,
    SquareMeans,
    V,
    counting,
)
from diffsweep.guidance import ClassifierFreeGuidance, Reconstruction, Replacement, composed
from diffsweep.samplers import DDIM, Ancestral, DPMSolverPP, Heun
from diffsweep.schedules import VE, VP, Cosine, Flow, Linear

FRAMES, SIDE = 5, 2  # a frame is 1 x 1 x SIDE, a clip 10 numbers, frame by frame
SIZE = FRAMES * SIDE
GAPS = (torch.arange(FRAMES)[:, None] - torch.arange(FRAMES)).abs().double()
WITHIN = torch.tensor([[0.30, 0.12], [0.12, 0.20]], dtype=torch.float64)
COVARIANCE = torch.kron(0.8**GAPS, WITHIN)  # the frames are an AR(1) process
MEAN = torch.linspace(-0.3, 0.4, SIZE, dtype=torch.float64)
GIVEN = {"past": [True, True, False, False, False], "ends": [True, False, False, False, True]}


def clips(x):
    return x.reshape(len(x), 1, FRAMES, 1, SIDE)


def exact(schedule, prediction=None):
    return GaussianDenoiser(schedule, MEAN, COVARIANCE, prediction)


def given(mask, count=1, seed=1, **parts):
    """Return a condition with known frames: one sample of the data for all rows, with NaN in the unknown frames."""
    draw = exact(VP()).sample(1, torch.Generator().manual_seed(seed)).expand(count, -1)
    mask = torch.tensor(mask).repeat(count, 1)
    y = torch.where(mask[:, None, :, None, None], clips(draw), torch.nan)
    return Condition(**parts, known=Known(Frames(mask), y))


def conditional(mask, known, mean=MEAN, covariance=COVARIANCE):
    """Return the mean and covariance of the unknown numbers given the known ones, by Schur's complement."""
    a = torch.tensor(mask).repeat_interleave(SIDE)
    gain = torch.linalg.solve(covariance[a][:, a], covariance[a][:, ~a]).T
    centred = known.flatten()[a] - mean[a]
    return mean[~a] + gain @ centred, covariance[~a][:, ~a] - gain @ covariance[a][:, ~a]


def noised(schedule, t, count=6):
    x_0 = exact(schedule).sample(count, torch.Generator().manual_seed(2))
    z = torch.randn(count, SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    alpha, sigma = schedule(t)
    return clips(alpha * x_0 + sigma * z)


SCHEDULES = {"vp": VP(), "ve": VE(), "flow": Flow(), "cosine": Cosine(1000)}
TIMES = [0.02, 0.3, 0.7, 0.98]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("place", GIVEN)
def test_with_the_weight_covariance_it_is_the_conditional_mean(name, place):
    """E[x_0 | x_t, x^a] = E[x_0 | x_t^b, x^a] follows from the joint Gaussian of x_0 and x_t, for any x_t^a."""
    schedule, mask = SCHEDULES[name], GIVEN[place]
    a = torch.tensor(mask).repeat_interleave(SIDE)
    for t in torch.tensor(TIMES, dtype=torch.float64):
        x_t, cond = noised(schedule, t), given(mask, 6)
        guidance = Reconstruction(AsPredicted(exact(schedule), V()), weight="covariance", tolerance=1e-12)
        denoised = guidance(x_t, t, cond)
        mean, covariance = conditional(mask, cond.known.y[0])  # of x_0^b; x_t^b adds noise to it
        alpha, sigma = schedule(t)
        marginal = alpha**2 * covariance + sigma**2 * torch.eye(len(covariance))
        expected = mean + alpha * (x_t.flatten(1)[:, ~a] - alpha * mean) @ torch.linalg.solve(marginal, covariance)
        torch.testing.assert_close(denoised.x0.flatten(1)[:, ~a], expected, rtol=1e-7, atol=1e-8)
        assert torch.equal(denoised.x0.flatten(1)[:, a], cond.known.y.flatten(1)[:, a])
        torch.testing.assert_close(alpha * denoised.x0 + sigma * denoised.eps, x_t, rtol=1e-9, atol=1e-9)


def test_frames_may_have_times_of_their_own():
    """Known frames have lower times; the result is still the conditional mean, which does not depend on x_t^a."""

    class Diagonal(Denoiser):  # E[x_0 | x_t] = mu + C A (A C A + S^2)^-1 (x_t - A mu), with a level of each frame
        def forward(self, x_t, t, cond=None):
            alpha, sigma = (level.repeat_interleave(SIDE) for level in self.schedule(t[0]))
            gain = COVARIANCE * alpha @ torch.linalg.inv(alpha[:, None] * COVARIANCE * alpha + torch.diag(sigma**2))
            x = x_t.flatten(1)
            x0 = MEAN + (x - alpha * MEAN) @ gain.T
            return Denoised(clips(x0), clips((x - alpha * x0) / sigma))

    schedule, mask = VP(), GIVEN["past"]
    t = torch.tensor([0.05, 0.1, 0.6, 0.7, 0.8], dtype=torch.float64).expand(6, -1)
    x_t, cond = noised(schedule, torch.tensor(0.5).double()), given(mask, 6)
    ours = Reconstruction(Diagonal(schedule), weight="covariance", tolerance=1e-12)(x_t, t, cond)
    mean, covariance = conditional(mask, cond.known.y[0])
    alpha, sigma = (level[2:].repeat_interleave(SIDE) for level in schedule(t[0]))
    marginal = alpha[:, None] * covariance * alpha + torch.diag(sigma**2)
    unknown = x_t[:, :, 2:].flatten(1)
    expected = mean + torch.linalg.solve(marginal, (unknown - alpha * mean).T).T @ (alpha[:, None] * covariance)
    torch.testing.assert_close(ours.x0[:, :, 2:].flatten(1), expected, rtol=1e-7, atol=1e-8)
    alpha, sigma = (level[:, None, :, None, None] for level in schedule(t))
    torch.testing.assert_close(alpha * ours.x0 + sigma * ours.eps, x_t)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_published_form_is_alpha_over_two_times_the_gradient(name, scale):
    """The gradient of the squared error is computed by central differences."""
    schedule, mask = SCHEDULES[name], GIVEN["ends"]
    denoiser, t, h = exact(schedule), torch.tensor(0.4, dtype=torch.float64), 1e-4
    x_t, cond, (alpha, _) = noised(schedule, t, 1), given(mask), schedule(t)
    a = cond.known.measurement.mask[:, None, :, None, None]
    shifted = clips((x_t.flatten() + h * torch.cat([torch.eye(SIZE), -torch.eye(SIZE)])).double())
    errors = torch.where(a, cond.known.y - denoiser(shifted, t).x0, 0).square().flatten(1).sum(1)
    gradient = clips(((errors[:SIZE] - errors[SIZE:]) / (2 * h))[None])
    expected = torch.where(a, cond.known.y, denoiser(x_t, t).x0 - scale * alpha / 2 * gradient)
    ours = Reconstruction(denoiser, scale)(x_t, t, cond)
    torch.testing.assert_close(ours.x0, expected, rtol=1e-6, atol=1e-7)


def moments(sampler, guided, mask, schedule):
    """Return the exact mean and covariance of the samples' unknown numbers.

    Samples of a deterministic sampler on Gaussian data are affine in the first x.
    """
    start = schedule(torch.ones((), dtype=torch.float64))[1] * torch.eye(SIZE, dtype=torch.float64)
    x = clips(torch.cat([torch.zeros(1, SIZE).double(), start]))
    cond = given(mask, len(x))
    ends = sampler(guided, x, cond)
    a = torch.tensor(mask).repeat_interleave(SIDE)
    torch.testing.assert_close(ends.flatten(1)[:, a], cond.known.y.flatten(1)[:, a], rtol=0, atol=1e-9)
    unknown = ends.flatten(1)[:, ~a]
    response = unknown[1:] - unknown[0]
    return unknown[0], response.T @ response


def errors(sampler, guided, mask, schedule):
    """Return the error of the mean over the standard deviation, and the relative error of the covariance."""
    mean, covariance = moments(sampler, guided, mask, schedule)
    truth, spread = conditional(mask, given(mask).known.y)
    return (
        float((mean - truth).norm() / spread.trace().sqrt()),
        float((covariance - spread).norm() / spread.norm()),
    )


SAMPLER = Heun(steps=40, clip="none", spacing="quadratic")


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [
        (SAMPLER, VP()),
        (SAMPLER, Flow()),
        (DPMSolverPP(steps=60, clip="none"), VP()),
        (DDIM(steps=200, clip="none", spacing="quadratic"), Cosine(1000)),
    ],
    ids=["heun", "heun_flow", "dpm_solver_pp", "ddim"],
)
@pytest.mark.parametrize("place", GIVEN)
def test_samples_are_those_of_the_conditional_gaussian(sampler, schedule, place):
    guided = Reconstruction(exact(schedule), weight="covariance")
    assert guided.exact_on_gaussians
    assert max(errors(sampler, guided, GIVEN[place], schedule)) < 0.02


def test_samples_of_a_low_resolution_are_those_of_the_conditional_gaussian():
    """Clips have 3 frames of 2 x 2 pixels, and the means of two frames are known."""
    wide = torch.kron(COVARIANCE[: 3 * SIDE, : 3 * SIDE], torch.tensor([[1.0, 0.4], [0.4, 0.7]], dtype=torch.float64))
    pool = torch.kron(torch.eye(3)[:2], torch.full((1, 4), 0.25)).double()
    y = pool @ torch.linalg.cholesky(wide) @ torch.randn(12, generator=torch.Generator().manual_seed(1)).double()
    means = torch.cat([y, y.new_full((1,), torch.nan)]).reshape(1, 1, 3, 1, 1).expand(13, -1, -1, -1, -1)
    known = Known(Frames(torch.tensor([True, True, False]).expand(13, -1)) @ SquareMeans(2), means)
    schedule = VP()
    guided = Reconstruction(GaussianDenoiser(schedule, torch.zeros(12).double(), wide), weight="covariance")
    start = torch.cat([torch.zeros(1, 12), torch.eye(12)]).double() * schedule(torch.ones(()).double())[1]
    ends = SAMPLER(guided, start.reshape(13, 1, 3, 2, 2), Condition(known=known)).flatten(1)
    gain = torch.linalg.solve(pool @ wide @ pool.T, pool @ wide).T
    covariance = wide - gain @ pool @ wide
    response = ends[1:] - ends[0]  # samples are affine in the first x
    assert (ends[0] - gain @ y).norm() < 0.02 * covariance.trace().sqrt()
    assert (response.T @ response - covariance).norm() < 0.02 * covariance.norm()
    torch.testing.assert_close(ends @ pool.T, y.expand(13, -1), rtol=0, atol=1e-9)


@pytest.mark.slow  # many samples
def test_the_published_form_and_replacement_are_biased(record_property):
    """Errors on VP: of the mean in standard deviations of the unknown numbers, and of the covariance, relative.

    ==================  ================  ================
    known frames        0 and 1 of 5      0 and 4 of 5
    ==================  ================  ================
    replacement         0.295  0.574      0.479  1.319
    scalar, scale 1     0.226  0.355      0.362  0.761
    scalar, scale 2     0.164  0.190      0.258  0.364
    scalar, scale 4     0.063  0.036      0.091  0.094
    covariance          0.002  0.002      0.003  0.003
    ==================  ================  ================
    """
    schedule, measured = VP(), {}
    for place, mask in GIVEN.items():
        for name, guided in {
            "replacement": Replacement(exact(schedule)),
            **{f"scalar, scale {s:g}": Reconstruction(exact(schedule), s) for s in (1.0, 2.0, 4.0)},
            "covariance": Reconstruction(exact(schedule), weight="covariance"),
        }.items():
            measured[place, name] = errors(SAMPLER, guided, mask, schedule)
            record_property(f"{place}, {name}", measured[place, name])
    print(*(f"{place:5} {name:16} {mean:.4f} {c:.4f}" for (place, name), (mean, c) in measured.items()), sep="\n")
    for place in GIVEN:
        assert max(measured[place, "covariance"]) < 0.02
        assert measured[place, "scalar, scale 1"][0] < measured[place, "replacement"][0]
        assert all(max(measured[place, name]) > 0.05 for name in ("replacement", "scalar, scale 1"))


@pytest.mark.parametrize("sampler", [DDIM(steps=9), Heun(steps=5), Ancestral(steps=9)], ids=lambda s: type(s).__name__)
def test_known_frames_carry_the_noise_of_their_time(sampler):
    """The denoiser is evaluated at alpha x^a + sigma eps^a.

    In deterministic sampling eps^a is that of the first x at all steps.
    """
    schedule, mask, count = VP(), GIVEN["past"], 512
    denoiser, calls = exact(schedule), []
    denoiser.register_forward_pre_hook(lambda module, given: calls.append(given[:2]))
    x = clips(torch.randn(count, SIZE, dtype=torch.float64))
    cond = given(mask, count)
    x = x * schedule(torch.ones(()).double())[1]
    ends = sampler(Replacement(denoiser), x, cond, Noise(0, torch.arange(count)))
    torch.testing.assert_close(ends[:, :, :2], cond.known.y[:, :, :2], rtol=0, atol=1e-12)
    eps = []
    for x_t, t in calls:
        alpha, sigma = schedule(t)
        eps.append(((x_t - alpha * cond.known.y) / sigma)[:, :, :2])
    for later in eps[1:]:
        if sampler.order is not None:
            torch.testing.assert_close(later, eps[0], rtol=1e-8, atol=1e-8)
        else:  # drawn again in part, with unit variance
            assert not torch.allclose(later, eps[0], atol=0.1)
            torch.testing.assert_close(later.std(), torch.ones(()).double(), rtol=0.06, atol=0)


def test_replacement_does_not_change_unknown_frames():
    schedule, t = VP(), torch.tensor(0.4, dtype=torch.float64)
    x_t, cond, denoiser = noised(schedule, t), given(GIVEN["past"], 6), exact(schedule)
    plain, ours = denoiser(x_t, t), Replacement(denoiser)(x_t, t, cond)
    alpha, sigma = schedule(t)
    for part in ("x0", "eps"):
        assert torch.equal(getattr(ours, part)[:, :, 2:], getattr(plain, part)[:, :, 2:])
    assert torch.equal(ours.x0[:, :, :2], cond.known.y[:, :, :2])
    expected = (x_t - alpha * cond.known.y)[:, :, :2] / sigma
    torch.testing.assert_close(ours.eps[:, :, :2], expected, rtol=1e-9, atol=1e-9)
    of_scale_zero = Reconstruction(denoiser, 0.0)(x_t, t, cond)
    for part in ("x0", "eps"):
        torch.testing.assert_close(getattr(of_scale_zero, part), getattr(ours, part), rtol=1e-12, atol=1e-12)


GUIDANCES = {
    "replacement": Replacement,
    "scalar": lambda denoiser: Reconstruction(denoiser, 2.0),
    "covariance": lambda denoiser: Reconstruction(denoiser, weight="covariance"),
}
guidances = pytest.mark.parametrize("make", GUIDANCES.values(), ids=GUIDANCES)


@guidances
def test_without_a_measurement_it_is_the_denoiser_bit_for_bit(make):
    schedule, t = VP(), torch.tensor(0.4, dtype=torch.float64)
    x_t, denoiser = noised(schedule, t), exact(schedule)
    plain = denoiser(x_t, t)
    nothing, cond = given([False] * FRAMES, 6), given(GIVEN["past"], 6)
    cond.known.measurement.mask[3] = False
    for condition, rows in (
        (None, slice(None)),
        (Condition(), slice(None)),
        (nothing, slice(None)),
        (cond, slice(3, 4)),
    ):
        ours = make(denoiser)(x_t, t, condition)
        assert torch.equal(ours.x0[rows], plain.x0[rows])
        assert torch.equal(ours.eps[rows], plain.eps[rows])


@guidances
def test_each_sample_is_guided_by_itself(make):
    """Clips of the same batch with other known frames, or with none, make no difference."""
    schedule, t = VP(), torch.tensor(0.3, dtype=torch.float64)
    x_t, denoiser = noised(schedule, t), exact(schedule)
    mask = torch.tensor([[True, True, False, False, False], [False] * 5, [True, False, True, False, True]]).repeat(2, 1)
    cond = Condition(known=Known(Frames(mask), noised(schedule, torch.tensor(0.01).double())))
    together = make(denoiser)(x_t, t, cond)
    for row in range(6):
        one = slice(row, row + 1)
        alone = make(denoiser)(x_t[one], t, cond[one])
        torch.testing.assert_close(together.x0[one], alone.x0, rtol=1e-10, atol=1e-12)


class Tiny(torch.nn.Module):
    """A network of clips that is conditioned on a class, and whose Jacobian is not a covariance."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.mix = torch.nn.Parameter(torch.randn(FRAMES, FRAMES, generator=generator, dtype=torch.float64))

    def forward(self, x, c_noise, cond=None):
        label = (
            0 if cond is None or cond.vector is None else cond.vector * (1 if cond.is_null is None else ~cond.is_null)
        )
        return torch.tanh(torch.einsum("bcfhw,fg->bcghw", x, self.mix) + torch.as_tensor(label).reshape(-1, 1, 1, 1, 1))


def guided_x0(x_t, t, labels, network, scale):
    """Return the x0 of classifier-free guidance as a function of x_t alone."""
    network = NetworkDenoiser(network, VP(), V())
    towards, null = (network(x_t, t, Condition(vector=labels * factor)).x0 for factor in (1, 0))
    return null + scale * (towards - null)


def test_it_guides_classifier_free_guidance():
    """The gradient is that of the guided x0, compared with torch's dense Jacobian."""
    schedule, t, network, mask = VP(), torch.tensor(0.4, dtype=torch.float64), Tiny(), GIVEN["past"]
    labels = torch.tensor([1])
    x_t, cond = noised(schedule, t, 1), given(mask, vector=labels)
    guided = composed(
        NetworkDenoiser(network, schedule, V()),
        inner=lambda denoiser, times: ClassifierFreeGuidance(denoiser, 3.0, times=times),
        outer=lambda denoiser, times: Reconstruction(denoiser, 1.5, times=times),
    )
    with counting(guided.denoiser.denoiser) as count:
        ours = guided(x_t, t, cond)
    assert (count.calls, count.rows) == (1, 2)
    x0 = guided_x0(x_t, t, labels, network, 3.0)
    jacobian = torch.autograd.functional.jacobian(lambda x: guided_x0(x, t, labels, network, 3.0).flatten(), x_t)
    residual = cond.known.residual(x0).flatten()
    expected = x0 + 1.5 * schedule(t)[0] * torch.tensordot(residual, jacobian, dims=1)
    torch.testing.assert_close(ours.x0[:, :, 2:], expected[:, :, 2:].detach(), rtol=1e-9, atol=1e-9)
    assert not ours.x0.requires_grad
    assert network.mix.grad is None


def test_a_jacobian_that_is_no_covariance_ends_the_iterations():
    """x0 falls where x rises, so no curvature is positive, and only replacement acts."""

    class Negative(torch.nn.Module):
        def forward(self, x, c_noise, cond=None):
            return 2 * x

    schedule, t = VP(), torch.tensor(0.4, dtype=torch.float64)
    x_t, cond = noised(schedule, t), given(GIVEN["past"], 6)
    denoiser = NetworkDenoiser(Negative(), schedule, Eps())  # x0 = (1 - 2 sigma) x / alpha
    assert 2 * schedule(t)[1] > 1
    ours = Reconstruction(denoiser, weight="covariance")(x_t, t, cond)
    torch.testing.assert_close(ours.x0, Replacement(denoiser)(x_t, t, cond).x0)
    of_network = Reconstruction(NetworkDenoiser(Tiny(), schedule, V()), weight="covariance")
    assert torch.isfinite(of_network(x_t, t, given(GIVEN["past"], 6, vector=torch.ones(6))).x0).all()


def test_iterations_end_at_the_tolerance(monkeypatch):
    """Conjugate gradients take one iteration for each distinct eigenvalue."""
    schedule, t = VP(), torch.tensor(0.4, dtype=torch.float64)
    calls, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *given, **more: calls.append(1) or grad(*given, **more))
    x_t, cond = noised(schedule, t), given(GIVEN["past"], 6)
    for covariance, settings, expected in (
        (0.3 * torch.eye(SIZE).double(), {"tolerance": 1e-6}, 1),
        (COVARIANCE, {"iterations": 2, "tolerance": 0.0}, 2),
        (COVARIANCE, {"tolerance": 1e-9}, 4),  # four known numbers
    ):
        calls.clear()
        Reconstruction(GaussianDenoiser(schedule, MEAN, covariance), weight="covariance", **settings)(x_t, t, cond)
        assert len(calls) == expected


@guidances
def test_where_alpha_is_0_the_unknown_frames_are_unchanged(make):
    """alpha is 0 at t = 1 of a zero-terminal-SNR schedule; sigma is 0 for clean frames."""
    schedule, cond = Linear(1000, zero_terminal_snr=True), given(GIVEN["past"], 6)
    denoiser, t = exact(schedule, V()), torch.ones((), dtype=torch.float64)
    x_t = noised(schedule, t)
    ours, plain = make(denoiser)(x_t, t, cond), denoiser(x_t, t)
    torch.testing.assert_close(ours.x0[:, :, 2:], plain.x0[:, :, 2:], rtol=0, atol=0)
    assert torch.isfinite(make(denoiser)(x_t, torch.zeros(()).double(), cond).eps).all()


def test_single_precision_is_near_double():
    schedule, t = VP(), torch.tensor(0.5, dtype=torch.float64)
    x_t, cond = noised(schedule, t), given(GIVEN["ends"], 6)
    network = Tiny()
    precise = Reconstruction(exact(schedule), weight="covariance")(x_t, t, cond).x0
    single = GaussianDenoiser(schedule, MEAN.float(), COVARIANCE.float())
    cond = Condition(known=cond.known.each(lambda part: part.float() if part.is_floating_point() else part))
    ours = Reconstruction(single, weight="covariance")(x_t.float(), t, cond).x0
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), precise, rtol=0, atol=2e-3)
    half = network.to(torch.bfloat16)
    x0 = Reconstruction(NetworkDenoiser(half, schedule, V()))(x_t.bfloat16(), t, cond).x0
    assert x0.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": "full"}, "guidance.weight is one of scalar, covariance, not full"),
        ({"iterations": 0}, "guidance.iterations must be at least 1, not 0"),
        ({"tolerance": 1.0}, "guidance.tolerance is a share of the residual"),
        ({"scale": math.inf}, "guidance.scale must be finite"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Reconstruction(exact(VP()), **settings)


@guidances
def test_a_measurement_must_fit_the_samples(make):
    x_t, known = torch.zeros(6, 1, FRAMES, 1, SIDE), given(GIVEN["past"], 6).known
    for measurement, y in ((Frames(known.measurement.mask[:, 1:]), known.y), (known.measurement, known.y[..., :1])):
        with pytest.raises(ValueError, match=r"fit|mask of frames"):
            make(exact(VP()))(x_t, torch.tensor(0.5), Condition(known=Known(measurement, y)))
