"""Predictions agree with their published forms."""

import math

import pytest
import torch

from diffsweep import schedules
from diffsweep.diffusion import EDM, X0, Denoised, Denoiser, Eps, Flow, GaussianDenoiser, Score, V
from diffsweep.schedules import Cosine, Linear

X_0 = torch.tensor([[0.4, -1.0], [0.9, 0.0]], dtype=torch.float64)
EPS = torch.tensor([[1.3, 0.2], [-0.7, 2.1]], dtype=torch.float64)
LEVELS = [(1.0, 1e-4), (0.8, 0.6), (1.0, 3.0), (0.3, 0.7), (0.9, 0.02), (1.0, 80.0), (1e-3, 1.0)]


def tensor(*values):
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def test_targets_are_the_published_ones():
    """v = alpha eps - sigma x_0 (Salimans & Ho 2022) where alpha^2 + sigma^2 = 1."""
    alpha, sigma = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    assert torch.equal(Eps().target(X_0, EPS, alpha, sigma), EPS)
    assert torch.equal(X0().target(X_0, EPS, alpha, sigma), X_0)
    torch.testing.assert_close(V().target(X_0, EPS, alpha, sigma), 0.8 * EPS - 0.6 * X_0)


def test_v_is_a_rotation_on_any_schedule():
    """(x_t, sqrt(alpha^2 + sigma^2) v) has the norm of sqrt(alpha^2 + sigma^2) (x_0, eps)."""
    alpha, sigma = torch.tensor(1.0, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
    x_t, v = alpha * X_0 + sigma * EPS, V().target(X_0, EPS, alpha, sigma)
    torch.testing.assert_close(x_t**2 / 10 + v**2, X_0**2 + EPS**2)


def test_v_is_the_angular_derivative():
    """v = d x_phi / d phi for x_phi = cos(phi) x_0 + sin(phi) eps."""
    phi = torch.tensor(0.7, dtype=torch.float64)
    _, derivative = torch.autograd.functional.jvp(lambda p: p.cos() * X_0 + p.sin() * EPS, phi, torch.ones_like(phi))
    torch.testing.assert_close(V().target(X_0, EPS, phi.cos(), phi.sin()), derivative)


@pytest.mark.parametrize("num_steps", [1, 4, 100, 1000])
@pytest.mark.parametrize("prediction", [Eps(), X0(), V(), Score(), Flow()])
def test_the_time_for_the_network_counts_from_0_to_almost_1000(prediction, num_steps):
    """1000 (k - 1) / T: the index of public checkpoints where T = 1000."""
    k = torch.arange(1, num_steps + 1, dtype=torch.float64)
    c_noise = prediction.c_noise(Linear(num_steps), k / num_steps)
    torch.testing.assert_close(c_noise, 1000 * (k - 1) / num_steps, rtol=1e-12, atol=1e-9)


def test_the_time_for_the_network_is_never_negative():
    assert Eps().c_noise(Linear(10), torch.tensor(0.03)) == 0


@pytest.mark.parametrize("prediction", [Eps(), X0(), V(), Score(), Flow()])
@pytest.mark.parametrize("schedule", [schedules.VP(), schedules.VE(), schedules.EDM(), schedules.Flow()])
def test_time_of_a_continuous_schedule_is_1000_t(prediction, schedule):
    assert float(prediction.c_noise(schedule, torch.tensor(0.25))) == 250


def test_the_time_of_a_learned_schedule_follows_the_log_snr_between_the_ends():
    schedule, t = schedules.Learned(width=8), tensor(0.0, 0.2, 0.9, 1.0)
    high, low = schedule.log_snr(tensor(0.0, 1.0)).detach()
    c_noise = V().c_noise(schedule, t).detach()
    torch.testing.assert_close(
        c_noise, 1000 * (high - schedule.log_snr(t).detach()) / (high - low), rtol=1e-12, atol=1e-9
    )


def test_edm_gives_the_network_a_quarter_of_the_log_of_sigma():
    """Table 1 of the paper."""
    sigma = tensor(0.002, 0.5, 1.0, 80.0)
    c_noise = EDM().c_noise(schedules.EDM(), sigma / 80)
    torch.testing.assert_close(c_noise, sigma.log() / 4, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("schedule", [Linear(1000), schedules.VP(), schedules.SubVP(), schedules.Flow()])
def test_edm_gives_the_network_a_quarter_of_the_log_of_sigma_over_alpha_on_any_schedule(schedule):
    t = tensor(0.01, 0.3, 0.9)
    alpha, sigma = schedule(t)
    torch.testing.assert_close(EDM().c_noise(schedule, t), (sigma / alpha).log() / 4, rtol=1e-12, atol=1e-13)


def test_edm_gives_the_network_at_most_5_where_the_log_snr_is_infinite():
    """Nothing is lost for sigma / alpha between e^-20 and e^20."""
    for schedule in (schedules.Flow(), Linear(10, zero_terminal_snr=True)):
        assert EDM().c_noise(schedule, tensor(0.0, 1.0)).tolist() == [-5, 5]
    t = tensor(math.exp(-19.9))
    torch.testing.assert_close(EDM().c_noise(schedules.EDM(sigma_max=1.0), t), tensor(-19.9 / 4))


@pytest.mark.parametrize("kind", [Eps, X0, V, Score, Flow, EDM])
def test_variance_is_the_mix_and_a_learned_one_a_second_head(kind):
    assert (kind("fixed_small").variance_mix, kind("fixed_small").heads) == (0, 1)
    assert (kind("fixed_large").variance_mix, kind("fixed_large").heads) == (1, 1)
    assert (kind("learned_range").variance_mix, kind("learned_range").heads) == (None, 2)
    assert kind().variance_mix == 0
    with pytest.raises(ValueError, match="fixed_small, fixed_large, learned_range, not learned"):
        kind("learned")


def test_eps_from_eps_is_exact_where_sigma_is_tiny():
    schedule = Cosine(100_000)
    alpha, sigma = schedule(torch.tensor(1e-5, dtype=torch.float64))
    denoised = Eps().eps(EPS, alpha * X_0 + sigma * EPS, alpha, sigma)
    assert torch.equal(denoised, EPS)
    x_t = alpha * X_0 + sigma * EPS
    torch.testing.assert_close(V().eps(V().target(X_0, EPS, alpha, sigma), x_t, alpha, sigma), EPS, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", [Eps, X0, V, Score, Flow, EDM])
def test_output_of_a_denoiser_is_in_the_units_of_its_prediction(kind):
    """The default of :meth:`Denoiser.output` converts back to the denoiser's estimates."""
    schedule = Cosine(100)
    denoiser = GaussianDenoiser(schedule, torch.zeros(2).double(), torch.eye(2).double() / 3, prediction=kind())
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)
    alpha, sigma = (value[:, None] for value in schedule(t))
    output = denoiser.output(X_0, t)
    torch.testing.assert_close(denoiser.prediction.x0(output, X_0, alpha, sigma), denoiser(X_0, t).x0)
    assert isinstance(denoiser, Denoiser)
    assert isinstance(denoiser(X_0, t), Denoised)


def test_published_conversions_from_v():
    """x_0 = alpha x_t - sigma v and eps = sigma x_t + alpha v on a variance-preserving schedule."""
    alpha, sigma = torch.tensor(math.cos(1.1)).double(), torch.tensor(math.sin(1.1)).double()
    alpha, sigma = alpha / torch.hypot(alpha, sigma), sigma / torch.hypot(alpha, sigma)
    torch.testing.assert_close(V().x0(EPS, X_0, alpha, sigma), alpha * X_0 - sigma * EPS)
    torch.testing.assert_close(V().eps(EPS, X_0, alpha, sigma), sigma * X_0 + alpha * EPS)


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_score_is_that_of_the_transition(alpha, sigma):
    """grad log N(x_t; alpha x_0, sigma^2) = -eps / sigma."""
    x_t = (alpha * X_0 + sigma * EPS).requires_grad_()
    log_density = torch.distributions.Normal(alpha * X_0, sigma).log_prob(x_t).sum()
    (score,) = torch.autograd.grad(log_density, x_t)
    torch.testing.assert_close(Score().target(X_0, EPS, alpha, sigma), score, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(Score().eps(score, x_t, alpha, sigma), -sigma * score)
    torch.testing.assert_close(Score().x0(score, x_t, alpha, sigma), (x_t + sigma**2 * score) / alpha)


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_score_scaled_by_sigma_is_minus_eps(alpha, sigma):
    scaled, eps = Score(scale_by_sigma=True), Eps()
    x_t, output = alpha * X_0 + sigma * EPS, EPS + 0.3
    assert torch.equal(scaled.target(X_0, EPS, alpha, sigma), -EPS)
    torch.testing.assert_close(scaled.target(X_0, EPS, alpha, sigma), sigma * Score().target(X_0, EPS, alpha, sigma))
    assert torch.equal(scaled.eps(-output, x_t, alpha, sigma), eps.eps(output, x_t, alpha, sigma))
    torch.testing.assert_close(scaled.x0(-output, x_t, alpha, sigma), eps.x0(output, x_t, alpha, sigma))


@pytest.mark.parametrize("scale_by_sigma", [False, True])
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_score_scales_the_input_to_the_size_of_unit_data(alpha, sigma, scale_by_sigma):
    c_in = Score(scale_by_sigma=scale_by_sigma).coefficients(alpha, sigma).c_in
    assert c_in**2 * (alpha**2 + sigma**2) == pytest.approx(1, rel=1e-14)


def test_flow_is_the_velocity_of_the_straight_path():
    """d x_t / dt for x_t = (1 - t) x_0 + t eps."""
    x_t, velocity = torch.autograd.functional.jvp(lambda t: (1 - t) * X_0 + t * EPS, tensor(0.3), tensor(1.0))
    torch.testing.assert_close(Flow().target(X_0, EPS, 0.7, 0.3), velocity)
    torch.testing.assert_close(Flow().x0(velocity, x_t, 0.7, 0.3), x_t - 0.3 * velocity)
    torch.testing.assert_close(Flow().eps(velocity, x_t, 0.7, 0.3), x_t + 0.7 * velocity)


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_flow_is_eps_minus_x0_on_any_schedule(alpha, sigma):
    assert torch.equal(Flow().target(X_0, EPS, alpha, sigma), EPS - X_0)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 0.1])
@pytest.mark.parametrize("sigma", [0.002, 0.1, 1.0, 80.0])
def test_edm_has_the_coefficients_of_the_paper_where_alpha_is_1(sigma, sigma_data):
    """Table 1, column "Ours"."""
    c_in, c_skip, c_out = EDM(sigma_data=sigma_data).coefficients(1.0, sigma)
    assert c_skip == pytest.approx(sigma_data**2 / (sigma**2 + sigma_data**2), rel=1e-14)
    assert c_out == pytest.approx(sigma * sigma_data / math.sqrt(sigma_data**2 + sigma**2), rel=1e-14)
    assert c_in == pytest.approx(1 / math.sqrt(sigma**2 + sigma_data**2), rel=1e-14)


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_edm_is_on_any_schedule_the_function_of_x_over_alpha(alpha, sigma):
    prediction, x_t, output = EDM(), alpha * X_0 + sigma * EPS, EPS - 0.2
    ratio = sigma / alpha
    torch.testing.assert_close(prediction.x0(output, x_t, alpha, sigma), prediction.x0(output, x_t / alpha, 1.0, ratio))
    c_in, exploding = prediction.coefficients(alpha, sigma).c_in, prediction.coefficients(1.0, ratio).c_in
    torch.testing.assert_close(c_in * x_t, exploding * x_t / alpha)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 0.1])
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_edm_has_input_and_target_of_unit_variance(alpha, sigma, sigma_data):
    """The data have the standard deviation sigma_data; both are linear in x_0 and eps, which are independent."""
    prediction, one, zero = EDM(sigma_data=sigma_data), tensor(1.0), tensor(0.0)
    from_x_0, from_eps = (prediction.target(*pair, alpha, sigma) for pair in ((one, zero), (zero, one)))
    assert float((from_x_0 * sigma_data) ** 2 + from_eps**2) == pytest.approx(1, rel=1e-13)
    c_in = prediction.coefficients(alpha, sigma).c_in
    assert c_in**2 * ((alpha * sigma_data) ** 2 + sigma**2) == pytest.approx(1, rel=1e-13)


@pytest.mark.parametrize("angle", [0.01, 0.4, 1.1, 1.57])
def test_edm_for_unit_data_is_minus_v_where_variance_is_preserved(angle):
    alpha, sigma = tensor(math.cos(angle)), tensor(math.sin(angle))
    edm, v, x_t = EDM(sigma_data=1.0), V(), alpha * X_0 + sigma * EPS
    torch.testing.assert_close(edm.target(X_0, EPS, alpha, sigma), -v.target(X_0, EPS, alpha, sigma))
    torch.testing.assert_close(edm.x0(-EPS, x_t, alpha, sigma), v.x0(EPS, x_t, alpha, sigma))
    torch.testing.assert_close(edm.eps(-EPS, x_t, alpha, sigma), v.eps(EPS, x_t, alpha, sigma))
    assert float(edm.coefficients(alpha, sigma).c_in) == pytest.approx(1, rel=1e-14)


def test_edm_refuses_data_without_a_size():
    with pytest.raises(ValueError, match=r"prediction\.sigma_data"):
        EDM(sigma_data=0.0)


ENDS = [Linear(100, zero_terminal_snr=True), schedules.Flow()]


@pytest.mark.parametrize("schedule", ENDS)
@pytest.mark.parametrize("prediction", [X0(), V(), Flow(), EDM()])
def test_x0_and_eps_follow_from_the_output_where_no_signal_is_left(prediction, schedule):
    for alpha, sigma in (schedule(tensor(1.0)), (0.0, 1.0)):
        target = prediction.target(X_0, EPS, alpha, sigma)
        torch.testing.assert_close(prediction.x0(target, EPS, alpha, sigma), X_0, rtol=0, atol=1e-12)
        torch.testing.assert_close(prediction.eps(target, EPS, alpha, sigma), EPS, rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", ENDS)
@pytest.mark.parametrize("prediction", [Eps(), Score(), Score(scale_by_sigma=True)])
def test_x0_does_not_follow_from_eps_where_no_signal_is_left(prediction, schedule):
    """The coefficients are infinite."""
    coefficients = prediction.coefficients(*schedule(tensor(1.0)))
    assert not torch.isfinite(coefficients.c_skip)
    assert not torch.isfinite(coefficients.c_out)


@pytest.mark.parametrize("prediction", [Eps(), V(), Score(scale_by_sigma=True), Flow(), EDM()])
def test_eps_keeps_its_digits_where_sigma_is_tiny(prediction):
    alpha, sigma = 1.0, 1e-9
    x_t = alpha * X_0 + sigma * EPS
    target = prediction.target(X_0, EPS, alpha, sigma)
    torch.testing.assert_close(prediction.eps(target, x_t, alpha, sigma), EPS, rtol=1e-14, atol=1e-14)
