"""Schedules given by betas agree with formulas written out here in float64 with math and numpy."""

import math

import numpy as np
import pytest
import torch

from diffsweep import schedules

B0, B1 = 1e-4, 0.02


def linear(u):
    return B0 * (1 - u) + B1 * u


def scaled_linear(u):
    return (math.sqrt(B0) * (1 - u) + math.sqrt(B1) * u) ** 2


def quadratic(u):
    return B0 + (B1 - B0) * u * u


def exponential(u):
    return math.exp((1 - u) * math.log(B0) + u * math.log(B1))


def sigmoid(u):
    return B0 + (B1 - B0) / (1 + math.exp(6 - 12 * u))


def constant(u):
    return 0.01


CURVES = {
    schedules.Linear: linear,
    schedules.ScaledLinear: scaled_linear,
    schedules.Quadratic: quadratic,
    schedules.Exponential: exponential,
    schedules.Sigmoid: sigmoid,
    schedules.Constant: constant,
}


def grid(num_steps):
    return torch.arange(num_steps + 1, dtype=torch.float64) / num_steps


def betas_of(schedule):
    alpha, _ = schedule(grid(schedule.num_steps))
    return (1 - (alpha[1:] / alpha[:-1]) ** 2).numpy()


def expected_betas(curve, num_steps):
    u = [(k - 1) / (num_steps - 1) if num_steps > 1 else 0.0 for k in range(1, num_steps + 1)]
    return np.minimum(np.array([curve(value) for value in u]) * 1000 / num_steps, 0.999)


@pytest.mark.parametrize("num_steps", [1, 2, 25, 100, 1000, 4000])
@pytest.mark.parametrize("kind", CURVES)
def test_alpha_bar_is_the_product_of_the_published_betas(kind, num_steps):
    expected = np.exp(np.log1p(-expected_betas(CURVES[kind], num_steps)).cumsum())
    alpha, sigma = kind(num_steps=num_steps)(grid(num_steps))
    np.testing.assert_allclose((alpha**2).numpy()[1:], expected, rtol=1e-11)
    np.testing.assert_allclose((sigma**2).numpy()[1:], 1 - expected, rtol=1e-9)


@pytest.mark.parametrize("kind", CURVES)
def test_betas_at_1000_steps_are_not_scaled(kind):
    np.testing.assert_allclose(
        betas_of(kind(num_steps=1000)), expected_betas(CURVES[kind], 1000), rtol=1e-10, atol=1e-15
    )


@pytest.mark.parametrize("kind", CURVES)
def test_betas_scale_with_1000_over_num_steps(kind):
    scale = betas_of(kind(num_steps=250))[[0, -1]] / betas_of(kind(num_steps=1000))[[0, -1]]
    np.testing.assert_allclose(scale, 4, rtol=1e-9)


def test_betas_are_clipped_at_0999():
    betas = betas_of(schedules.Linear(num_steps=10))
    assert betas.max() == pytest.approx(0.999, abs=1e-12)
    np.testing.assert_allclose(betas[:5], expected_betas(linear, 10)[:5], rtol=1e-10)


def test_beta_start_and_beta_end_are_the_first_and_last_beta():
    betas = betas_of(schedules.ScaledLinear(1000, beta_start=0.00085, beta_end=0.012))
    np.testing.assert_allclose(betas[[0, -1]], [0.00085, 0.012], rtol=1e-10)


def test_linear_ends_at_the_reference_number():
    """It is alpha_bar_T of DDPM's schedule in float64."""
    alpha, _ = schedules.Linear(1000)(torch.ones((), dtype=torch.float64))
    assert float(alpha**2) == pytest.approx(4.0358297654e-05, rel=1e-10)


def test_sigmoid_in_beta_ends_at_the_reference_number():
    alpha, _ = schedules.Sigmoid(1000)(torch.ones((), dtype=torch.float64))
    assert float(alpha**2) == pytest.approx(4.0e-5, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(schedules.Linear, "linear"), (schedules.ScaledLinear, "scaled_linear"), (schedules.Sigmoid, "sigmoid")],
)
def test_equals_diffusers_at_1000_steps(kind, name):
    """diffusers keeps float32 tables, hence the tolerance."""
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(num_train_timesteps=1000, beta_schedule=name, beta_start=B0, beta_end=B1)
    np.testing.assert_allclose(betas_of(kind(1000)), theirs.betas.double().numpy(), rtol=1e-5)
    alpha, _ = kind(1000)(grid(1000)[1:])
    np.testing.assert_allclose((alpha**2).numpy(), theirs.alphas_cumprod.double().numpy(), rtol=1e-5)


@pytest.mark.parametrize("start_and_end", [(0.0, 0.02), (-1e-4, 0.02), (0.02, 1e-4), (1e-4, 1.0)])
def test_betas_out_of_order_or_range_are_refused(start_and_end):
    with pytest.raises(ValueError, match="beta_start"):
        schedules.Linear(100, *start_and_end)


@pytest.mark.parametrize("kind", [*CURVES, schedules.Cosine, schedules.SigmoidAlphaBar])
@pytest.mark.parametrize("num_steps", [0, -5])
def test_fewer_than_one_step_is_refused(kind, num_steps):
    with pytest.raises(ValueError, match="num_steps"):
        kind(num_steps=num_steps)
