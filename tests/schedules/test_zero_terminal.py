"""Rescaling to zero terminal SNR (Lin et al. 2023) agrees with its algorithm 1 and with diffusers."""

import math

import numpy as np
import pytest
import torch

from diffsweep import schedules
from diffsweep.schedules.base import zero_terminal

KINDS = [
    schedules.Constant,
    schedules.Cosine,
    schedules.Exponential,
    schedules.Linear,
    schedules.Quadratic,
    schedules.ScaledLinear,
    schedules.Sigmoid,
    schedules.SigmoidAlphaBar,
]
every_kind = pytest.mark.parametrize("kind", KINDS)


def grid(num_steps):
    return torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps


def algorithm_1(betas):
    """Return the betas of the rescaled schedule from betas, as printed in the paper."""
    alphas_bar_sqrt = np.sqrt(np.cumprod(1 - betas))
    first, last = alphas_bar_sqrt[0].copy(), alphas_bar_sqrt[-1].copy()
    alphas_bar_sqrt -= last
    alphas_bar_sqrt *= first / (first - last)
    alphas_bar = alphas_bar_sqrt**2
    return 1 - np.concatenate([alphas_bar[:1], alphas_bar[1:] / alphas_bar[:-1]])


@every_kind
@pytest.mark.parametrize("num_steps", [2, 10, 1000])
def test_betas_are_those_of_algorithm_1(kind, num_steps):
    alpha, _ = kind(num_steps)(grid(num_steps))
    alpha_bar = (alpha**2).numpy()
    betas = 1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])
    zero, _ = kind(num_steps, zero_terminal_snr=True)(grid(num_steps))
    np.testing.assert_allclose((zero**2).numpy(), np.cumprod(1 - algorithm_1(betas)), rtol=1e-9, atol=1e-15)


def test_equals_diffusers():
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(
        1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    ).alphas_cumprod.double()
    alpha, _ = schedules.ScaledLinear(1000, 0.00085, 0.012, zero_terminal_snr=True)(grid(1000))
    torch.testing.assert_close(alpha[:-1] ** 2, theirs[:-1], rtol=1e-3, atol=1e-6)
    assert theirs[-1] < 1e-7


@every_kind
def test_it_ends_at_exactly_pure_noise(kind):
    schedule = kind(100, zero_terminal_snr=True)
    for dtype in (torch.float16, torch.float32, torch.float64):
        end = torch.ones((), dtype=dtype)
        alpha, sigma = schedule(end)
        assert (alpha, sigma, schedule.log_snr(end)) == (0, 1, -math.inf)


@every_kind
def test_the_first_cell_is_unchanged(kind):
    t = torch.linspace(0, 0.01, 11, dtype=torch.float64)
    for value, plain in zip(kind(100, zero_terminal_snr=True)(t), kind(100)(t), strict=True):
        torch.testing.assert_close(value, plain, rtol=1e-10, atol=0)


@every_kind
def test_the_last_cell_falls_to_minus_infinity_and_comes_back(kind):
    schedule = kind(100, zero_terminal_snr=True)
    t = 1 - torch.tensor([1e-2, 5e-3, 1e-4, 1e-8, 1e-12, 0.0], dtype=torch.float64)
    log_snr = schedule.log_snr(t)
    assert (log_snr.diff() < 0).all()
    assert torch.isfinite(log_snr[:-1]).all()
    torch.testing.assert_close(schedule.time_of(log_snr), t, rtol=0, atol=1e-14)


@every_kind
def test_the_plain_schedule_keeps_some_signal(kind):
    schedule = kind(100)
    assert not schedule.zero_terminal_snr
    assert schedule.t_max == 1
    assert schedule(torch.ones((), dtype=torch.float64))[0] > 0


def test_a_schedule_that_ends_at_zero_already_is_unchanged():
    alpha_bar = torch.tensor([0.9, 0.5, 0.1, 0.0], dtype=torch.float64)
    torch.testing.assert_close(zero_terminal(alpha_bar.log()).exp(), alpha_bar, rtol=1e-14, atol=0)


def test_alphas_are_rescaled_as_computed_by_hand():
    """alpha 0.9, 0.5, 0.1 becomes (alpha - 0.1) 0.9 / 0.8."""
    alpha = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    expected = torch.tensor([0.9, 0.45, 0.0], dtype=torch.float64)
    torch.testing.assert_close(torch.exp(zero_terminal(2 * alpha.log()) / 2), expected, rtol=1e-14, atol=0)


@every_kind
def test_one_step_cannot_keep_the_first_and_end_at_zero(kind):
    with pytest.raises(ValueError, match="at least 2"):
        kind(1, zero_terminal_snr=True)
