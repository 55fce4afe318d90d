"""What every option of conf/time_sampling promises."""

from pathlib import Path

import pytest
import torch

from diffsweep.runs.build import build
from diffsweep.schedules import Linear

OPTIONS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/time_sampling").glob("*.yaml"))

pytestmark = pytest.mark.parametrize("option", OPTIONS)


@pytest.fixture
def time_sampling(compose, option):
    return build(compose(f"time_sampling={option}"), "time_sampling")


@pytest.mark.parametrize("num_steps", [1, 10, 1000])
def test_weighted_times_are_uniform_over_the_grid(time_sampling, num_steps):
    """The importance weights undo the density: the weighted mean of any function of k is its plain mean."""
    schedule, count = Linear(num_steps), 100 * num_steps
    t, weight = time_sampling(schedule, (torch.arange(count, dtype=torch.float64) + 0.5) / count)
    k = (t * num_steps).round()
    torch.testing.assert_close(k, t * num_steps, rtol=0, atol=1e-9)
    assert k.min() == 1
    assert k.max() == num_steps
    grid = torch.arange(1, num_steps + 1, dtype=torch.float64)
    for function in (torch.ones_like, torch.square, torch.cos):
        torch.testing.assert_close((weight * function(k)).mean(), function(grid).mean(), rtol=0.01, atol=0.01)
