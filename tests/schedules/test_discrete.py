"""Every discrete schedule has exact tables, and interpolates the angle between grid points."""

import pytest
import torch

from diffsweep.schedules import (
    Constant,
    Cosine,
    DiscreteSchedule,
    Exponential,
    Linear,
    Quadratic,
    ScaledLinear,
    Sigmoid,
    SigmoidAlphaBar,
)


def test_tables_are_those_of_the_given_alpha_bar():
    alpha_bar = torch.tensor([0.9, 0.5, 0.2, 0.01], dtype=torch.float64)
    alpha, sigma = DiscreteSchedule(alpha_bar.log())(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64))
    torch.testing.assert_close(alpha[1:] ** 2, alpha_bar, rtol=1e-14, atol=0)
    torch.testing.assert_close(sigma[1:] ** 2, 1 - alpha_bar, rtol=1e-14, atol=0)
    assert alpha[0] == 1
    assert sigma[0] == 0


def test_tiny_sigma_keeps_its_digits():
    """sigma^2 = -expm1(log alpha_bar), since 1 - alpha_bar would lose ten digits."""
    schedule = DiscreteSchedule(torch.tensor([-1e-12, -1.0], dtype=torch.float64))
    _, sigma = schedule(torch.tensor(0.5, dtype=torch.float64))
    assert float(sigma**2) == pytest.approx(1e-12 * (1 - 0.5e-12), rel=1e-14)


def test_between_grid_points_the_angle_is_linear():
    schedule = Linear(4)
    t = torch.tensor([0.25, 0.3, 0.4, 0.5, 0.75, 0.95, 1.0], dtype=torch.float64)
    alpha, sigma = schedule(t)
    angle = torch.atan2(sigma, alpha)
    torch.testing.assert_close(angle[1], torch.lerp(angle[0], angle[3], 0.2))
    torch.testing.assert_close(angle[2], torch.lerp(angle[0], angle[3], 0.6))
    torch.testing.assert_close(angle[5], torch.lerp(angle[4], angle[6], 0.8))


def test_first_cell_starts_at_clean_data():
    schedule = Cosine(10)
    first = schedule(torch.tensor(0.1, dtype=torch.float64))
    half = schedule(torch.tensor(0.05, dtype=torch.float64))
    torch.testing.assert_close(torch.atan2(half[1], half[0]), torch.atan2(first[1], first[0]) / 2)


def test_finite_log_snr_interval_is_the_grid():
    schedule = Linear(20)
    assert (schedule.t_min, schedule.t_max) == (1 / 20, 1.0)


def test_uniform_numbers_become_grid_times():
    """Cell k of T equal cells of [0, 1) becomes (k + 1) / T."""
    u = torch.tensor([0.0, 0.0999, 0.1, 0.5, 0.95, 0.99999994])
    torch.testing.assert_close(Linear(10).time_at(u), torch.tensor([0.1, 0.1, 0.2, 0.6, 1.0, 1.0]))


def test_any_time_goes_up_to_the_grid():
    t = torch.tensor([0.0, 0.04, 0.1, 0.16, 0.52, 0.96, 1.0], dtype=torch.float64)
    expected = torch.tensor([0.1, 0.1, 0.1, 0.2, 0.6, 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(Linear(10).on_grid(t), expected)


@pytest.mark.parametrize("num_steps", [13, 25, 50, 1000, 4000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_time_on_the_grid_stays_however_it_was_rounded(num_steps, dtype):
    """k / T times T may be a little more than k."""
    t = torch.arange(1, num_steps + 1, dtype=dtype) / num_steps
    torch.testing.assert_close(Linear(num_steps).on_grid(t), t, rtol=1e-6, atol=0)


KINDS = [Constant, Cosine, Exponential, Linear, Quadratic, ScaledLinear, Sigmoid, SigmoidAlphaBar]


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("num_steps", [2, 49, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_variance_is_preserved_on_and_off_the_grid(kind, num_steps, zero_terminal_snr):
    t = torch.linspace(0, 1, 3 * num_steps + 1, dtype=torch.float64)
    alpha, sigma = kind(num_steps, zero_terminal_snr=zero_terminal_snr)(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=0, atol=1e-14)


def test_it_has_no_state_to_train_cast_or_save():
    schedule = Linear(10).half()
    assert not list(schedule.parameters())
    assert not schedule.state_dict()
    assert schedule(torch.ones((), dtype=torch.float64))[0] == Linear(10)(torch.ones((), dtype=torch.float64))[0]
