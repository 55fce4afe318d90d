"""Continuous schedules agree with their papers' formulas, in 50 digits."""

import math

import mpmath
import pytest
import torch
from mpmath import mp, mpf

from diffsweep.schedules import EDM, VE, VP, CosineContinuous, Flow, Linear, SubVP

TIMES = [1e-6, 1e-4, 1 / 3, 0.5, 0.9, 1 - 1e-6, 1 - 1e-12, 1.0]


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def beta_integral(t, start="0.1", end="20"):
    return mpmath.quad(lambda s: mpf(start) + (mpf(end) - mpf(start)) * s, [0, t])


def vp(t):
    bar = beta_integral(t)
    return mpmath.exp(-bar / 2), mpmath.sqrt(1 - mpmath.exp(-bar))


def sub_vp(t):
    bar = beta_integral(t)
    return mpmath.exp(-bar / 2), 1 - mpmath.exp(-bar)


def ve(t):
    return mpf(1), mpf("0.01") * mpf(5000) ** t


def edm(t):
    return mpf(1), 80 * t


def flow(t):
    return 1 - t, t


def cosine_continuous(t, image_size=64, base_size=64, low=-15, high=15):
    """simple diffusion, appendix: logsnr_schedule_cosine_shifted."""
    first, last = mpmath.atan(mpmath.exp(-mpf(high) / 2)), mpmath.atan(mpmath.exp(-mpf(low) / 2))
    shift = 2 * mpmath.log(mpf(base_size) / image_size)
    log_snr = -2 * mpmath.log(mpmath.tan(first + t * (last - first))) + shift
    return mpmath.sqrt(1 / (1 + mpmath.exp(-log_snr))), mpmath.sqrt(1 / (1 + mpmath.exp(log_snr)))


PAIRS = [
    (VP(), vp),
    (SubVP(), sub_vp),
    (VE(), ve),
    (EDM(), edm),
    (Flow(), flow),
    (CosineContinuous(), cosine_continuous),
    (CosineContinuous(256, base_size=64), lambda t: cosine_continuous(t, 256, 64)),
    (CosineContinuous(8, base_size=64), lambda t: cosine_continuous(t, 8, 64)),
    (CosineContinuous(log_snr_min=-9.0, log_snr_max=12.0), lambda t: cosine_continuous(t, low=-9, high=12)),
]
IDS = ["vp", "sub_vp", "ve", "edm", "flow", "cosine", "cosine_256", "cosine_8", "cosine_other_ends"]
every_pair = pytest.mark.parametrize(("schedule", "formula"), PAIRS, ids=IDS)


@every_pair
def test_alpha_and_sigma_are_the_published_formula(schedule, formula):
    with mp.workdps(50):
        exact = [[float(value) for value in formula(mpf(t))] for t in TIMES]
    for value, expected in zip(schedule(tensor(*TIMES)), tensor(*exact).T, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)


@every_pair
def test_log_snr_is_that_of_the_formula(schedule, formula):
    inner = [t for t in TIMES if schedule.t_max == 1 or t < 1]
    with mp.workdps(50):
        exact = [float(2 * mpmath.log(alpha / sigma)) for alpha, sigma in (formula(mpf(t)) for t in inner)]
    torch.testing.assert_close(schedule.log_snr(tensor(*inner)), tensor(*exact), rtol=1e-13, atol=1e-12)


@every_pair
def test_log_snr_rate_is_the_derivative_of_the_formula(schedule, formula):
    inner = [1e-4, 0.3, 0.5, 0.9]

    def log_snr(t):
        alpha, sigma = formula(t)
        return 2 * mpmath.log(alpha / sigma)

    with mp.workdps(30):
        exact = [float(mpmath.diff(log_snr, mpf(t), h=mpf("1e-12"))) for t in inner]
    torch.testing.assert_close(schedule.log_snr_rate(tensor(*inner)), tensor(*exact), rtol=1e-9, atol=0)


@every_pair
def test_tiny_times_come_back_from_their_log_snr_without_cancellation(schedule, formula):
    """The times are those that the 16 digits of the log-SNR determine well enough."""
    t = tensor(1e-8, 1e-6, 1e-4, 0.1, 0.9)
    sensitivity = (t * schedule.log_snr_rate(t)).abs()
    bound = 1e-14 * (1 + schedule.log_snr(t).abs()) / sensitivity.clamp(max=1)
    assert ((schedule.time_of(schedule.log_snr(t)) / t - 1).abs() < bound).all()


@pytest.mark.parametrize("schedule", [VP(), CosineContinuous(), CosineContinuous(8, base_size=64)])
def test_variance_is_preserved(schedule):
    t = torch.linspace(0, 1, 301, dtype=torch.float64)
    alpha, sigma = schedule(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=0, atol=1e-14)


def test_linear_betas_are_vp_on_a_grid():
    """Song et al., appendix B: beta_k = beta(k / T) / T, which is DDPM's at T = 1000."""
    t = torch.linspace(0.01, 1, 100, dtype=torch.float64)
    torch.testing.assert_close(Linear(4000).log_snr(t), VP().log_snr(t), rtol=0, atol=0.02)


def test_vp_follows_the_betas_it_is_given():
    t = tensor(0.25, 1.0)
    torch.testing.assert_close(VP(2.0, 2.0)(t)[0], torch.exp(-t), rtol=1e-14, atol=0)
    torch.testing.assert_close(VP(1.0, 3.0)(t)[0] ** 2, torch.exp(-(t + t**2)), rtol=1e-14, atol=0)
    torch.testing.assert_close(VP(2.0, 2.0).time_of(VP(2.0, 2.0).log_snr(t)), t, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", [VP, SubVP])
def test_steep_betas_still_have_an_inverse(kind):
    schedule = kind(beta_end=70.0)
    t = torch.linspace(0.01, 1, 100, dtype=torch.float64)
    torch.testing.assert_close(schedule.time_of(schedule.log_snr(t)), t, rtol=0, atol=1e-9)


def test_sub_vp_has_the_alpha_of_vp_and_the_square_of_its_sigma():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    (alpha, sigma), (vp_alpha, vp_sigma) = SubVP()(t), VP()(t)
    assert torch.equal(alpha, vp_alpha)
    torch.testing.assert_close(sigma, vp_sigma**2, rtol=1e-14, atol=0)
    assert (alpha**2 + sigma**2)[1:-1].max() < 1


def test_ve_is_geometric():
    schedule = VE(sigma_min=0.02, sigma_max=30.0)
    alpha, sigma = schedule(torch.linspace(0, 1, 11, dtype=torch.float64))
    assert (alpha == 1).all()
    torch.testing.assert_close(sigma[1:] / sigma[:-1], torch.full_like(sigma[1:], 1500**0.1), rtol=1e-13, atol=0)
    torch.testing.assert_close(sigma[[0, -1]], tensor(0.02, 30.0), rtol=1e-14, atol=0)
    assert not schedule.clean_at_zero
    assert (schedule.t_min, schedule.t_max) == (0, 1)


def test_edm_is_a_straight_line():
    schedule = EDM(sigma_max=10.0, sigma_min=0.05)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    alpha, sigma = schedule(t)
    assert (alpha == 1).all()
    assert torch.equal(sigma, 10 * t)
    assert schedule.t_min == pytest.approx(0.005, rel=1e-15)
    assert float(schedule(tensor(schedule.t_min))[1]) == pytest.approx(0.05, rel=1e-15)


def test_flow_is_a_straight_path_from_clean_data_to_pure_noise():
    schedule = Flow(t_min=0.01)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    alpha, sigma = schedule(t)
    assert torch.equal(sigma, t)
    assert torch.equal(alpha, 1 - t)
    assert (schedule.t_min, schedule.t_max) == (0.01, 0.99)
    assert schedule.zero_terminal_snr
    torch.testing.assert_close(schedule.log_snr(t), -schedule.log_snr(1 - t), rtol=1e-14, atol=1e-15)


def test_flow_returns_another_tensor_than_it_was_given():
    t = tensor(0.2, 0.4)
    Flow()(t)[1].zero_()
    assert torch.equal(t, tensor(0.2, 0.4))


@pytest.mark.parametrize("ends", [(-15.0, 15.0), (-9.0, 12.0)])
def test_cosine_ends_where_it_is_clipped(ends):
    schedule = CosineContinuous(log_snr_min=ends[0], log_snr_max=ends[1])
    torch.testing.assert_close(schedule.log_snr(tensor(1.0, 0.0)), tensor(*ends), rtol=0, atol=1e-11)


def test_cosine_without_ends_is_the_cosine():
    schedule = CosineContinuous(log_snr_min=-30.0, log_snr_max=30.0)
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    torch.testing.assert_close(schedule(t)[0], torch.cos(t * math.pi / 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("image_size", "base_size"), [(128, 64), (512, 32), (8, 64), (64, 64)])
def test_cosine_shifts_with_resolution_everywhere_alike(image_size, base_size):
    """sigma / alpha grows by d / d_0 at every t; the truncation is before the shift."""
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    shifted, plain = CosineContinuous(image_size, base_size), CosineContinuous(image_size)
    shift = 2 * math.log(base_size / image_size)
    torch.testing.assert_close(shifted.log_snr(t), plain.log_snr(t) + shift, rtol=0, atol=1e-12)
    torch.testing.assert_close(shifted.log_snr(tensor(0.0, 1.0)), tensor(15.0, -15.0) + shift, rtol=0, atol=1e-11)
    ratio = (shifted(t)[1] / shifted(t)[0]) / (plain(t)[1] / plain(t)[0])
    torch.testing.assert_close(ratio, torch.full_like(t, image_size / base_size), rtol=1e-12, atol=0)


def test_cosine_is_not_shifted_without_a_base_size():
    assert torch.equal(CosineContinuous(8).log_snr(tensor(0.3)), CosineContinuous(512).log_snr(tensor(0.3)))


@pytest.mark.parametrize("kind", [VP, SubVP, Flow])
@pytest.mark.parametrize("t_min", [0.0, -0.1, 0.5, 1.0])
def test_a_t_min_out_of_range_is_refused(kind, t_min):
    with pytest.raises(ValueError, match=r"schedule\.t_min"):
        kind(t_min=t_min)


@pytest.mark.parametrize("kind", [VP, SubVP])
@pytest.mark.parametrize("start_and_end", [(0.0, 20.0), (-1.0, 20.0), (20.0, 0.1)])
def test_betas_out_of_order_are_refused(kind, start_and_end):
    with pytest.raises(ValueError, match="beta_start"):
        kind(*start_and_end)


@pytest.mark.parametrize("kind", [VE, EDM])
@pytest.mark.parametrize(("low", "high"), [(0.0, 50.0), (-1.0, 50.0), (50.0, 0.01), (1.0, 1.0)])
def test_sigmas_out_of_order_are_refused(kind, low, high):
    with pytest.raises(ValueError, match="sigma_min"):
        kind(sigma_min=low, sigma_max=high)


@pytest.mark.parametrize(("low", "high"), [(15.0, -15.0), (1.0, 1.0)])
def test_ends_out_of_order_are_refused(low, high):
    with pytest.raises(ValueError, match="log_snr_min"):
        CosineContinuous(log_snr_min=low, log_snr_max=high)
