"""Which times are trained at."""

import pytest
import torch

from diffsweep.diffusion import Noise, Stream, Uniform, stratified
from diffsweep.schedules import Linear


@pytest.mark.parametrize("num_steps", [1, 7, 49, 1000])
def test_uniform_covers_exactly_the_grid(num_steps):
    u = (torch.arange(10 * num_steps, dtype=torch.float64) + 0.5) / (10 * num_steps)
    t, weight = Uniform()(Linear(num_steps), u)
    values, counts = t.unique(return_counts=True)
    torch.testing.assert_close(values, torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps, rtol=0, atol=0)
    assert (counts == 10).all()
    assert (weight == 1).all()


def test_drawn_times_lie_on_the_grid_in_float32():
    u = Noise(0, torch.arange(20_000)).uniform(stream=Stream.TIME)
    t, _ = Uniform()(Linear(1000), u)
    assert t.dtype == torch.float32
    torch.testing.assert_close(t * 1000, (t * 1000).round(), rtol=0, atol=1e-3)
    assert t.min() > 0.0009
    assert t.max() <= 1


@pytest.mark.parametrize("num_steps", [1, 3, 1000, 1024, 1025])
def test_the_ends_of_the_unit_interval_are_the_ends_of_the_grid(num_steps):
    u = torch.tensor([0.0, 1 - 2**-24])
    t, _ = Uniform()(Linear(num_steps), u)
    torch.testing.assert_close(t, torch.tensor([1 / num_steps, 1.0]))


@pytest.mark.parametrize("count", [1, 2, 10, 297, 1188])
def test_stratified_has_exactly_one_number_in_each_stratum(count):
    u = stratified(count)
    assert torch.equal((u * count).floor().long().sort().values, torch.arange(count))
    torch.testing.assert_close(u.sort().values, (torch.arange(count).double() + 0.5) / count, rtol=1e-12, atol=0)


def test_stratified_neighbours_are_far_apart_and_any_run_is_nearly_uniform():
    """The golden-ratio sequence: 50 in a row leave no gap above 3 / 50."""
    u = stratified(1000)
    assert u.diff().abs().min() > 0.3
    for start in (0, 333, 950):
        run = u[start : start + 50].sort().values
        assert run.diff().max() < 3 / 50
    assert torch.equal(stratified(1000), u)
