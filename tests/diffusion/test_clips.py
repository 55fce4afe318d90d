"""Clips in which each frame may have its own time are processed like frames that are samples by themselves."""

import pytest
import torch

from diffsweep.diffusion import (
    DSM,
    EDM,
    SSM,
    VLB,
    X0,
    AsPredicted,
    Denoised,
    Denoiser,
    Eps,
    Flow,
    GaussianDenoiser,
    Hybrid,
    LogNormal,
    MinSNR,
    NetworkDenoiser,
    Score,
    Simple,
    Stratified,
    Uniform,
    V,
    add_noise,
    expand_to,
    mean_at,
    mean_of_frames,
    network_input,
    posterior,
    transition,
)
from diffsweep.schedules import VP, Cosine
from diffsweep.schedules import Flow as FlowSchedule

B, C, F, H, W = 2, 2, 3, 2, 2
SCHEDULE = VP()


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def clip():
    return normal(B, C, F, H, W)


def times():
    return torch.tensor([[0.1, 0.9, 0.4], [0.5, 0.2, 0.7]], dtype=torch.float64)


class OfFrames(Denoiser):
    """The exact denoiser of clips whose frames are independent, all of one Gaussian."""

    def __init__(self, frame):
        super().__init__(frame.schedule, frame.prediction)
        self.frame = frame

    def forward(self, x_t, t, cond=None):
        t = t.expand(len(x_t)) if t.ndim == 0 else t
        t = t[:, None].expand(-1, x_t.shape[2]) if t.ndim == 1 else t
        frames = x_t.transpose(1, 2)
        denoised = self.frame(frames.flatten(0, 1), t.flatten())
        return Denoised(*(part.reshape(frames.shape).transpose(1, 2) for part in denoised[:2]))


def of_frames(schedule=SCHEDULE):
    root = 0.4 * normal(C * H * W, C * H * W)
    return OfFrames(GaussianDenoiser(schedule, normal(C * H * W), root @ root.T))


def test_levels_of_frames_lie_on_the_axis_of_frames():
    value, x = torch.arange(6.0).reshape(B, F), torch.ones(B, C, F, H, W)
    expanded = expand_to(value, x)
    assert expanded.shape == (B, 1, F, 1, 1)
    for b in range(B):
        for f in range(F):
            assert ((expanded * x)[b, :, f] == value[b, f]).all()
    assert torch.equal(expand_to(value, value), value)
    one = expand_to(value[:, 0], x)
    assert one.shape == (B, 1, 1, 1, 1)
    assert torch.equal(one.flatten(), value[:, 0])


def test_means_of_frames():
    x, t = clip(), times()
    torch.testing.assert_close(mean_at(x, t)[1, 2], x[1, :, 2].mean())
    torch.testing.assert_close(mean_of_frames(mean_at(x, t)), mean_at(x, t[:, 0]))
    torch.testing.assert_close(mean_at(x, t[:, 0]), x.flatten(1).mean(1))


@pytest.mark.parametrize("schedule", [Cosine(1000), VP(), FlowSchedule()], ids=["cosine", "vp", "flow"])
def test_noise_transition_and_posterior_are_those_of_each_frame(schedule):
    x, eps, t = clip(), clip(), times()
    s = t / 2
    x_t = add_noise(schedule, x, t, eps)
    moments = transition(schedule, x, s, t), posterior(schedule, x, x_t, s, t)
    for f in range(F):
        at = x[:, :, f], t[:, f]
        torch.testing.assert_close(x_t[:, :, f], add_noise(schedule, *at, eps[:, :, f]), rtol=1e-12, atol=1e-12)
        alone = (
            transition(schedule, x[:, :, f], s[:, f], t[:, f]),
            posterior(schedule, x[:, :, f], x_t[:, :, f], s[:, f], t[:, f]),
        )
        for (mean, variance), (own_mean, own_variance) in zip(moments, alone, strict=True):
            torch.testing.assert_close(mean[:, :, f], own_mean, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(variance[:, 0, f, 0, 0], own_variance.flatten(), rtol=1e-12, atol=1e-12)


def test_the_exact_denoiser_of_frames_is_the_closed_form_of_the_clip():
    """It is E[x_0 | x_t] = mu + C A (A C A + S^2)^-1 (x_t - A mu).

    A and S are diagonal and hold the level of each frame.
    """
    denoiser, x_t, t = of_frames(), clip(), times()
    denoised, frame = denoiser(x_t, t), denoiser.frame
    covariance = frame.rotations[0] @ torch.diag(frame.variances[0]) @ frame.rotations[0].T
    covariance = torch.block_diag(*[covariance] * F)  # the numbers of a clip, frame by frame
    mean = frame.means[0].repeat(F)
    for b in range(B):
        alpha, sigma = (level.repeat_interleave(C * H * W) for level in SCHEDULE(t[b]))
        flat = x_t[b].transpose(0, 1).flatten()
        marginal = alpha[:, None] * covariance * alpha + torch.diag(sigma**2)
        x0 = mean + covariance @ (alpha * torch.linalg.solve(marginal, flat - alpha * mean))
        torch.testing.assert_close(denoised.x0[b].transpose(0, 1).flatten(), x0)
        torch.testing.assert_close(denoised.eps[b].transpose(0, 1).flatten(), (flat - alpha * x0) / sigma)


@pytest.mark.parametrize("prediction", [Eps(), X0(), V(), Score(), Flow(), EDM()], ids=lambda p: type(p).__name__)
def test_predictions_convert_each_frame_at_its_level(prediction):
    denoiser, x_t, t = of_frames(), clip(), times()
    exact, converted = denoiser(x_t, t), AsPredicted(denoiser, prediction)(x_t, t)
    torch.testing.assert_close(converted.x0, exact.x0)
    torch.testing.assert_close(converted.eps, exact.eps)


@pytest.mark.parametrize("prediction", [Eps(), V(), Score(), EDM()], ids=lambda p: type(p).__name__)
def test_a_network_receives_the_time_of_each_frame(prediction):
    x_t, t = clip(), times()
    given = network_input(SCHEDULE, prediction, x_t, t)
    assert given.c_noise.shape == (B, F)
    for f in range(F):
        alone = network_input(SCHEDULE, prediction, x_t[:, :, f], t[:, f])
        torch.testing.assert_close(given.x[:, :, f], alone.x, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(given.c_noise[:, f], alone.c_noise, rtol=1e-12, atol=1e-12)


class Frames(torch.nn.Module):
    """A network that reads each frame and its time, with a given number of heads."""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads

    def forward(self, x, c_noise, cond=None):
        h = torch.tanh(1.3 * x) * (0.5 + expand_to(c_noise, x) / 1000)
        return torch.cat([h, h.sin()], dim=1) if self.heads == 2 else h


OBJECTIVES = {
    "simple": lambda: (Simple(), VP(), V()),
    "min_snr": lambda: (Simple("huber", MinSNR()), VP(), V()),
    "hybrid": lambda: (Hybrid(weighting=MinSNR(), vlb_weight=1.0), Cosine(10), Eps("learned_range")),
    "vlb_grid": lambda: (VLB(), Cosine(10), Eps("learned_range")),
    "vlb_grid_levels": lambda: (VLB(levels=17), Cosine(10), V()),
    "vlb": lambda: (VLB(levels=256), VP(), Eps()),
    "dsm": lambda: (DSM("likelihood"), VP(), Score()),
    "ssm": lambda: (SSM(), VP(), Eps()),
}
objectives = pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)


@objectives
def test_a_loss_is_the_mean_of_the_losses_of_the_frames(make):
    """Each frame has its own time and so its own weight; one is at the last step of a chain (t = 0.1 of 10)."""
    objective, schedule, prediction = make()
    denoiser = NetworkDenoiser(Frames(prediction.heads), schedule, prediction)
    x_0, eps, t = clip().clamp(-1, 1), clip(), times()
    losses = objective(denoiser, x_0, None, t, eps)
    assert losses.shape == (B,)
    alone = [objective(denoiser, x_0[:, :, f], None, t[:, f], eps[:, :, f]) for f in range(F)]
    torch.testing.assert_close(losses, torch.stack(alone).mean(0), rtol=1e-9, atol=0)
    assert not torch.allclose(losses, objective(denoiser, x_0, None, t[:, 0], eps), rtol=1e-3)


@objectives
def test_equal_times_of_frames_are_one_time_of_the_clip(make):
    objective, schedule, prediction = make()
    denoiser = NetworkDenoiser(Frames(prediction.heads), schedule, prediction)
    x_0, eps, t = clip().clamp(-1, 1), clip(), times()[:, 0]
    of_each = objective(denoiser, x_0, None, t[:, None].expand(B, F), eps)
    torch.testing.assert_close(of_each, objective(denoiser, x_0, None, t, eps), rtol=1e-12, atol=0)


def test_an_exact_denoiser_of_flat_samples_has_one_time_for_each():
    with pytest.raises(ValueError, match="one time a sample"):
        of_frames().frame(clip(), times())


@pytest.mark.parametrize("sampling", [Uniform(), LogNormal(), Stratified()], ids=lambda s: type(s).__name__)
def test_times_of_frames_are_drawn_as_those_of_samples(sampling):
    """Each column of uniform numbers gives the times that it gives alone."""
    u = torch.rand(8, F)
    t, weight = sampling(SCHEDULE, u)
    assert t.shape == weight.shape == (8, F)
    for f in range(F):
        torch.testing.assert_close(t[:, f], sampling(SCHEDULE, u[:, f])[0])
