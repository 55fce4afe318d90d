"""Schedules given by alpha_bar agree with their papers' formulas in float64."""

import math

import numpy as np
import pytest
import torch

from diffsweep.schedules import Cosine, SigmoidAlphaBar


def cosine(u, s=0.008):
    return math.cos((u + s) / (1 + s) * math.pi / 2) ** 2 / math.cos(s / (1 + s) * math.pi / 2) ** 2


def sigmoid(u, start=-3.0, end=3.0, tau=1.0):
    def logistic(value):
        return 1 / (1 + math.exp(-value / tau))

    return (logistic(end) - logistic(start + (end - start) * u)) / (logistic(end) - logistic(start))


def on_grid(schedule):
    """Return alpha_bar at k = 1 .. T."""
    t = torch.arange(1, schedule.num_steps + 1, dtype=torch.float64) / schedule.num_steps
    return (schedule(t)[0] ** 2).numpy()


@pytest.mark.parametrize("num_steps", [2, 10, 100, 1000, 4000])
@pytest.mark.parametrize(("kind", "formula"), [(Cosine, cosine), (SigmoidAlphaBar, sigmoid)])
def test_alpha_bar_is_the_formula_and_the_last_beta_is_clipped(kind, formula, num_steps):
    expected = [formula(k / num_steps) for k in range(num_steps + 1)]
    for k in range(1, num_steps + 1):  # clip beta_k = 1 - alpha_bar_k / alpha_bar_{k-1}, as both papers' codes do
        if expected[k] < 0.001 * expected[k - 1]:
            expected[k] = 0.001 * expected[k - 1]
    np.testing.assert_allclose(on_grid(kind(num_steps)), expected[1:], rtol=2e-9)


@pytest.mark.parametrize("kind", [Cosine, SigmoidAlphaBar])
def test_one_step_is_one_clipped_beta(kind):
    np.testing.assert_allclose(on_grid(kind(1)), [0.001], rtol=1e-12)


def test_cosine_reference_numbers():
    """They are beta_1 and alpha_bar_T at T = 1000 in float64."""
    alpha_bar = on_grid(Cosine(1000))
    assert 1 - alpha_bar[0] == pytest.approx(4.12842248e-05, rel=1e-8)
    assert alpha_bar[-1] == pytest.approx(2.4287669070e-09, rel=1e-9)


def test_sigmoid_reference_number():
    """It is alpha_bar_T at T = 1000; the sigmoid in beta is another curve, which ends at 4.0e-5."""
    assert on_grid(SigmoidAlphaBar(1000))[-1] == pytest.approx(3.0e-7, rel=0.05)


@pytest.mark.parametrize("num_steps", [50, 1000])
def test_cosine_equals_diffusers(num_steps):
    """diffusers' squaredcos_cap_v2 is in float32, with errors of 1e-5 in its betas and more in alpha_bar_T."""
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(num_train_timesteps=num_steps, beta_schedule="squaredcos_cap_v2")
    alpha_bar = on_grid(Cosine(num_steps))
    betas = 1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])
    np.testing.assert_allclose(betas, theirs.betas.double().numpy(), rtol=2e-5)
    np.testing.assert_allclose(alpha_bar[:-1], theirs.alphas_cumprod.double().numpy()[:-1], rtol=2e-5, atol=1e-10)


def test_cosine_offset():
    np.testing.assert_allclose(
        on_grid(Cosine(100, s=0.1))[:-1], [cosine(k / 100, 0.1) for k in range(1, 100)], rtol=1e-10
    )


def test_sigmoid_start_end_and_temperature():
    ours = on_grid(SigmoidAlphaBar(100, start=0.0, end=3.0, tau=0.7))[:-1]
    np.testing.assert_allclose(ours, [sigmoid(k / 100, 0.0, 3.0, 0.7) for k in range(1, 100)], rtol=1e-10)


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"schedule\.s"):
        Cosine(10, s=-0.1)
    with pytest.raises(ValueError, match="start < end"):
        SigmoidAlphaBar(10, start=3.0, end=-3.0)
    with pytest.raises(ValueError, match="tau"):
        SigmoidAlphaBar(10, tau=0.0)
