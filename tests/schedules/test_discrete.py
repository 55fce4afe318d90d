"""What every discrete schedule shares: exact tables, and the angle between grid points."""

import pytest
import torch

from diffsweep.schedules import Cosine, DiscreteSchedule, Linear


def test_tables_are_those_of_the_given_alpha_bar():
    alpha_bar = torch.tensor([0.9, 0.5, 0.2, 0.01], dtype=torch.float64)
    alpha, sigma = DiscreteSchedule(alpha_bar.log())(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64))
    torch.testing.assert_close(alpha[1:] ** 2, alpha_bar, rtol=1e-14, atol=0)
    torch.testing.assert_close(sigma[1:] ** 2, 1 - alpha_bar, rtol=1e-14, atol=0)
    assert alpha[0] == 1
    assert sigma[0] == 0


def test_tiny_sigma_keeps_its_digits():
    """sigma^2 = -expm1(log alpha_bar): forming 1 - alpha_bar would lose ten digits."""
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


def test_nearest_time_is_on_the_grid():
    t = torch.tensor([0.0, 0.04, 0.06, 0.52, 0.96, 1.0], dtype=torch.float64)
    torch.testing.assert_close(Linear(10).nearest(t), torch.tensor([0.0, 0.0, 0.1, 0.5, 1.0, 1.0], dtype=torch.float64))


def test_it_has_no_state_to_train_cast_or_save():
    schedule = Linear(10).half()
    assert not list(schedule.parameters())
    assert not schedule.state_dict()
    assert schedule(torch.ones((), dtype=torch.float64))[0] == Linear(10)(torch.ones((), dtype=torch.float64))[0]
