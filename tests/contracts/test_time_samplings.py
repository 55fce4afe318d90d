"""Every option of conf/time_sampling keeps the contract of time samplings."""

import copy
import functools
import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from parts import parts_of

from diffsweep.configuration.build import build
from diffsweep.configuration.rules.requirements import required_capabilities_are_provided as unprovided
from diffsweep.schedules import EDM, VE, VP, Flow, Linear

OPTIONS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/time_sampling").glob("*.yaml"))
GRIDS = [1, 10, 1000]
CONTINUOUS = [EDM(), VE(), VP(), Flow()]

pytestmark = pytest.mark.parametrize("option", OPTIONS)


@pytest.fixture(scope="module")
def built(compose):
    return functools.cache(lambda *overrides: build(compose(*overrides), "time_sampling"))


@pytest.fixture
def make(built, option):
    """Make the option for a grid of some steps; one that learns of losses has a full history of unequal ones."""

    def make(num_steps, updated=True):
        sampling = copy.deepcopy(built(f"time_sampling={option}", f"schedule.num_steps={num_steps}"))
        if updated and "bound" in sampling.requires:
            update(sampling, num_steps)
        return sampling

    return make


@pytest.fixture
def on_continuous(built, option, make):
    if "grid" in make(1).requires:
        pytest.skip("needs a discrete schedule")
    return built(f"time_sampling={option}", "schedule=edm")


def update(sampling, num_steps):
    k = torch.arange(1, num_steps + 1, dtype=torch.float64).repeat(20)
    sampling.update(Linear(num_steps), k / num_steps, 2 + torch.sin(k))


def midpoints(count):
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


@pytest.mark.parametrize("updated", [False, True])
@pytest.mark.parametrize("num_steps", GRIDS)
def test_unbiased_weighted_times_are_uniform_over_the_grid(make, num_steps, updated):
    """The importance weights undo the density: the weighted mean of any function of k is its plain mean."""
    sampling, u = make(num_steps, updated), midpoints(100 * num_steps)
    if "uniform_times" not in sampling.provides:
        pytest.skip("its density is part of the loss")
    t, weight = sampling(Linear(num_steps), u)
    k, grid = (t * num_steps).round(), torch.arange(1, num_steps + 1, dtype=torch.float64)
    assert torch.equal(k.unique(), grid)
    for function in (torch.ones_like, torch.square, torch.cos):
        torch.testing.assert_close((weight * function(k)).mean(), function(grid).mean(), rtol=0.01, atol=0.01)


def test_biased_times_have_no_weights(make):
    """Weights would undo what the density is for."""
    sampling = make(10)
    if "uniform_times" in sampling.provides:
        pytest.skip("its weights undo its density")
    assert (sampling(Linear(10), midpoints(100))[1] == 1).all()


@pytest.mark.parametrize("updated", [False, True])
def test_the_mean_weight_is_1(make, updated):
    _, weight = make(10, updated)(Linear(10), midpoints(100_000))
    assert float(weight.mean()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("num_steps", GRIDS)
def test_times_are_those_of_the_grid_to_the_last_digits(make, num_steps):
    """Between grid points the schedule interpolates: a rounded time has another noise level."""
    t, _ = make(num_steps)(Linear(num_steps), midpoints(1000))
    k = (t * num_steps).round()
    torch.testing.assert_close(t, k / num_steps, rtol=1e-15, atol=0)
    assert k.min() >= 1
    assert k.max() <= num_steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_steps", GRIDS)
def test_the_ends_of_the_unit_interval_are_times_too(make, num_steps, dtype):
    for end in (0.0, 1 - torch.finfo(dtype).eps / 2):
        t, weight = make(num_steps)(Linear(num_steps), torch.tensor([end], dtype=dtype))
        assert t.dtype == weight.dtype == dtype
        assert 1 <= round(float(t) * num_steps) <= num_steps
        assert math.isfinite(weight)


def test_times_lie_where_the_noise_level_is_finite(on_continuous):
    for schedule, dtype in itertools.product(CONTINUOUS, (torch.float32, torch.float64)):
        rounding = torch.finfo(dtype).eps
        u = torch.cat([torch.tensor([0.0, 1 - rounding / 2], dtype=dtype), torch.rand(1000, dtype=dtype)])
        for part in (u[:1], u[1:2], u):
            t, weight = on_continuous(schedule, part)
            assert t.shape == weight.shape == part.shape
            assert t.dtype == weight.dtype == dtype
            assert (t >= schedule.t_min * (1 - rounding)).all()
            assert (t <= schedule.t_max * (1 + rounding)).all()
            assert schedule.log_snr(t.double()).isfinite().all()


def test_unbiased_times_are_uniform_on_a_continuous_schedule(on_continuous):
    if "uniform_times" not in on_continuous.provides:
        pytest.skip("its density is part of the loss")
    for schedule in CONTINUOUS:
        t, weight = on_continuous(schedule, midpoints(10_000))
        assert (weight == 1).all()
        evenly = schedule.t_min + (schedule.t_max - schedule.t_min) * midpoints(10_000)
        torch.testing.assert_close(t.sort().values, evenly, rtol=0, atol=1.01e-4)


def test_a_rule_keeps_it_to_its_schedules(compose, built, option):
    cfg, sampling = compose(f"time_sampling={option}", "schedule=edm"), built(f"time_sampling={option}", "schedule=edm")
    for schedule in (Linear(10), *CONTINUOUS):
        refused = unprovided(
            cfg, parts_of(time_sampling=sampling, schedule=schedule, objective=SimpleNamespace(provides={"bound"}))
        )
        assert (refused is not None) == ("grid" in sampling.requires and schedule.num_steps is None)


def test_the_learned_losses_are_in_its_state(make):
    """A resumed run draws what the uninterrupted one would have drawn."""
    sampling, fresh, u = make(10), make(10, updated=False), midpoints(1000)
    if "bound" in sampling.requires:
        assert not torch.equal(sampling(Linear(10), u)[0], fresh(Linear(10), u)[0])
    fresh.load_state_dict(sampling.state_dict())
    update(sampling, 10)
    update(fresh, 10)
    for ours, theirs in zip(sampling(Linear(10), u), fresh(Linear(10), u), strict=True):
        assert torch.equal(ours, theirs)


def test_one_that_does_not_learn_has_no_state(make):
    sampling, u = make(10, updated=False), midpoints(1000)
    if "bound" in sampling.requires:
        pytest.skip("learns of losses")
    before = sampling(Linear(10), u)
    update(sampling, 10)
    assert sampling.state_dict() == {}
    assert torch.equal(sampling(Linear(10), u)[0], before[0])


def test_it_follows_the_device_of_the_numbers(make):
    sampling = make(10).to("meta")
    for part in sampling(Linear(10), torch.empty(5, device="meta")):
        assert part.device.type == "meta"
