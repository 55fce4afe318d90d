"""Every option of conf/schedule keeps the contract of schedules."""

import copy
import functools
import math
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from diffsweep.configuration.build import build

FILES = (Path(__file__).parents[2] / "conf/schedule").glob("*.yaml")
KEYS = {path.stem: yaml.safe_load(path.read_text()) for path in FILES}
OPTIONS = sorted(KEYS)
DISCRETE = [option for option in OPTIONS if "num_steps" in KEYS[option]]
CONTINUOUS = [option for option in OPTIONS if "num_steps" not in KEYS[option]]
VARIANTS = [(option, {}) for option in OPTIONS] + [(option, {"zero_terminal_snr": True}) for option in DISCRETE]
TIMES = torch.tensor([0.0, 1e-4, 0.01, 0.1, 0.3, 1 / 3, 0.5, 0.77, 0.9995, 1.0], dtype=torch.float64)

every_option = pytest.mark.parametrize("option", OPTIONS)
every_discrete = pytest.mark.parametrize("option", DISCRETE)
every_continuous = pytest.mark.parametrize("option", CONTINUOUS)
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join([variant[0], *variant[1]]))


@pytest.fixture(scope="module")
def made(compose):
    """Return the schedule of an option with some of its settings changed, built once."""

    @functools.cache
    def of(option, **changed):
        cfg = compose(f"schedule={option}")
        assert changed.keys() <= cfg.schedule.keys()
        return instantiate(cfg.schedule, _convert_="all", **changed) if changed else build(cfg, "schedule")

    return of


@pytest.fixture
def schedule(made, request):
    params = request.node.callspec.params
    option, changed = params.get("variant") or (params["option"], {})
    return made(option, **changed)


def finite_times(schedule, count=200):
    return torch.linspace(schedule.t_min, schedule.t_max, count, dtype=torch.float64)


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


@every_option
def test_its_attributes_are_right(schedule, option):
    assert schedule.num_steps == KEYS[option].get("num_steps")
    assert schedule.learned == bool(list(schedule.parameters()))
    assert schedule.learned == bool(schedule.state_dict())
    assert 0 <= schedule.t_min < schedule.t_max <= 1


@every_variant
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_shape_and_dtype_come_back_and_the_value_is_that_of_float64(schedule, variant, dtype):
    for shape in ((), (5,), (2, 3), (2, 1, 1, 1)):
        given = torch.rand(shape).to(dtype)
        values = (*schedule(given), schedule.log_snr(given))
        for value, exact in zip(values, (*schedule(given.double()), schedule.log_snr(given.double())), strict=True):
            assert value.shape == shape
            assert value.dtype == dtype
            torch.testing.assert_close(value, exact.to(dtype), rtol=0, atol=0)


@every_option
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_times_keep_shape_and_dtype(schedule, option, dtype):
    for shape in ((), (5,), (2, 3)):
        u = torch.rand(shape).to(dtype)
        for value in (schedule.time_of(u), schedule.time_at(u), schedule.on_grid(u), schedule.embedded_time(u)):
            assert value.shape == shape
            assert value.dtype == dtype


@every_variant
def test_time_0_is_clean_where_clean_at_zero_is_true(schedule, variant):
    alpha, sigma = schedule(TIMES)
    if schedule.clean_at_zero:
        assert alpha[0] == 1
        assert sigma[0] == 0
        assert schedule.log_snr(TIMES)[0] == math.inf
        assert schedule.t_min > 0
    else:
        assert 0 < sigma[0] < 0.02
        assert 0.99 < alpha[0] <= 1
        assert torch.isfinite(schedule.log_snr(TIMES)[0])
        assert schedule.t_min == 0
    assert (sigma[1:] > 0).all()
    assert (alpha[:-1] > 0).all()


@every_variant
def test_time_1_has_exactly_no_signal_where_zero_terminal_snr_is_true(schedule, variant):
    """Elsewhere at most 3 % of the variance is signal.

    The exponential schedule, whose betas are small for long, has 2.3 %.
    """
    alpha, sigma = schedule(scalar(1.0))
    if schedule.zero_terminal_snr:
        assert alpha == 0
        assert sigma == 1
        assert schedule.log_snr(scalar(1.0)) == -math.inf
        assert schedule.t_max < 1
    else:
        assert alpha > 0
        assert schedule.t_max == 1
        assert schedule.log_snr(scalar(1.0)) < math.log(0.03)


@every_variant
def test_log_snr_is_the_log_ratio(schedule, variant):
    alpha, sigma = schedule(TIMES)
    torch.testing.assert_close(schedule.log_snr(TIMES), 2 * (alpha.log() - sigma.log()), rtol=1e-9, atol=1e-9)


@every_variant
def test_log_snr_falls_strictly_on_and_off_the_grid(schedule, variant):
    t = torch.linspace(0.001, 1, 1999, dtype=torch.float64)
    assert (schedule.log_snr(t).diff() < 0).all()
    alpha, sigma = schedule(t)
    assert (alpha.diff() <= 0).all()
    assert (sigma.diff() >= 0).all()
    assert ((alpha.diff() < 0) | (sigma.diff() > 0)).all()


@every_variant
def test_log_snr_is_finite_between_t_min_and_t_max(schedule, variant):
    assert torch.isfinite(schedule.log_snr(finite_times(schedule))).all()


@every_variant
def test_time_of_inverts_log_snr(schedule, variant):
    """It does so on the grid, off it, and at the ends."""
    grid = torch.linspace(0, 1, 201, dtype=torch.float64)
    t = torch.cat([grid, torch.rand(200, dtype=torch.float64), finite_times(schedule)])
    torch.testing.assert_close(schedule.time_of(schedule.log_snr(t)), t, rtol=0, atol=1e-9)


@every_variant
def test_log_snr_inverts_time_of(schedule, variant):
    low, high = schedule.log_snr(torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64))
    values = low + (high - low) * torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    torch.testing.assert_close(schedule.log_snr(schedule.time_of(values)), values, rtol=0, atol=1e-7)


@every_variant
def test_time_of_values_beyond_the_range_is_an_end(schedule, variant):
    ends = schedule.time_of(torch.tensor([math.inf, 200.0, -200.0, -math.inf], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-12)


@every_variant
def test_uniform_numbers_become_training_times_spread_evenly(schedule, variant):
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    t = schedule.time_at(u).sort().values
    first = 1 / schedule.num_steps if schedule.num_steps else schedule.t_min
    last = 1.0 if schedule.num_steps else schedule.t_max
    torch.testing.assert_close(t, first + (last - first) * u, rtol=0, atol=1e-3)
    if schedule.num_steps:
        torch.testing.assert_close((t * schedule.num_steps).round(), t * schedule.num_steps, rtol=0, atol=1e-9)


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_times_have_a_finite_log_snr_but_at_a_terminal_of_zero(schedule, variant, dtype):
    t = schedule.time_at(torch.tensor([0.0, 0.3, 1 - 2**-24], dtype=dtype))
    assert (t > 0).all()
    assert (t <= 1).all()
    infinite = schedule.log_snr(t).isinf()
    assert not infinite[t < 1].any()
    if schedule.num_steps is None or not schedule.zero_terminal_snr:
        assert not infinite.any()


@every_option
def test_any_time_becomes_a_training_time(schedule, option):
    t = torch.cat([TIMES, torch.rand(200, dtype=torch.float64)])
    on_grid = schedule.on_grid(t)
    if schedule.num_steps is None:
        assert torch.equal(on_grid, t.clamp(schedule.t_min, schedule.t_max))
    else:
        position = on_grid * schedule.num_steps
        torch.testing.assert_close(position, position.round(), rtol=0, atol=1e-9)
        assert (on_grid >= t - 1e-12).all()
        assert (on_grid[1:] < t[1:] + 1 / schedule.num_steps).all()
        assert on_grid[0] == 1 / schedule.num_steps


@every_option
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_times_stay_where_they_are(schedule, option, dtype):
    t = schedule.time_at(((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000).to(dtype))
    torch.testing.assert_close(schedule.on_grid(t), t, rtol=1e-6, atol=0)


@every_option
def test_embedded_time_rises_from_0_to_at_most_1000(schedule, option):
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    embedded = schedule.embedded_time(t).detach()
    first = 0 if schedule.num_steps is None else 1
    assert embedded[0] == pytest.approx(0, abs=1e-9)
    assert (embedded[first:].diff() > 0).all()
    assert embedded[-1] == pytest.approx(1000 - first * 1000 / (schedule.num_steps or 1), abs=1e-9)


@every_continuous
def test_log_snr_rate_is_the_central_difference(schedule, option):
    for shape in ((), (7,), (2, 3)):
        t = 0.05 + 0.9 * torch.rand(shape, dtype=torch.float64)
        h = 1e-5 * t
        difference = (schedule.log_snr(t + h) - schedule.log_snr(t - h)) / (2 * h)
        rate = schedule.log_snr_rate(t)
        assert (rate < 0).all()
        torch.testing.assert_close(rate, difference, rtol=1e-7, atol=1e-7)


@every_continuous
def test_log_snr_rate_is_finite_between_t_min_and_t_max(schedule, option):
    assert torch.isfinite(schedule.log_snr_rate(finite_times(schedule))).all()


@every_continuous
def test_log_snr_rate_keeps_dtype_and_the_callers_times(schedule, option):
    t = torch.rand(5)
    assert schedule.log_snr_rate(t).dtype == torch.float32
    assert not t.requires_grad
    with torch.no_grad():
        silent = schedule.log_snr_rate(t)
    assert not silent.requires_grad
    torch.testing.assert_close(silent, schedule.log_snr_rate(t).detach(), rtol=0, atol=0)


@every_continuous
def test_log_snr_rate_is_differentiable_itself(schedule, option):
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    rate = schedule.log_snr_rate(t)
    second = torch.autograd.grad(rate.sum(), t)[0] if rate.requires_grad else torch.zeros_like(t)
    h = 1e-5
    with torch.no_grad():
        difference = (schedule.log_snr_rate(t + h) - schedule.log_snr_rate(t - h)) / (2 * h)
    torch.testing.assert_close(second, difference, rtol=1e-5, atol=1e-5)


@every_discrete
def test_a_grid_has_no_rate(schedule, option):
    with pytest.raises(ValueError, match="discrete"):
        schedule.log_snr_rate(TIMES)


@every_discrete
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 49, 1000])
def test_any_number_of_steps_works(made, option, steps):
    """49 is among them, since (1 / 49) * 49 is not 1 in floating point."""
    schedule = made(option, num_steps=steps)
    assert schedule.num_steps == steps
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha, sigma = schedule(t)
    log_snr = schedule.log_snr(t)
    torch.testing.assert_close(log_snr[1:], 2 * (alpha[1:].log() - sigma[1:].log()), rtol=1e-9, atol=1e-9)
    assert (log_snr.diff() < 0).all()
    assert (alpha.diff() < 0).all()


@every_discrete
def test_grid_values_do_not_depend_on_how_the_time_was_rounded(made, option):
    """k / T times T is not always k: the value must still be the table's, not one interpolated from the cell below."""
    for steps in (7, 49, 98, 103, 187):
        schedule = made(option, num_steps=steps)
        k = torch.arange(1, steps + 1, dtype=torch.float64)
        exact = schedule.log_snr(k / steps)
        for end in (0.0, 2.0):
            t = torch.nextafter(k / steps, torch.full_like(k, end))
            torch.testing.assert_close(schedule.log_snr(t), exact, rtol=0, atol=1e-5)


@every_discrete
@pytest.mark.parametrize("steps", [2, 3, 49, 1000])
def test_zero_terminal_snr_moves_the_alphas_affinely_and_keeps_the_first(made, option, steps):
    plain, zero = (made(option, num_steps=steps, zero_terminal_snr=zero) for zero in (False, True))
    assert zero.zero_terminal_snr
    assert not plain.zero_terminal_snr
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    (old, _), (new, sigma) = plain(t), zero(t)
    slope = old[0] / (old[0] - old[-1])
    torch.testing.assert_close(new, slope * (old - old[-1]), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(new[0], old[0], rtol=1e-15, atol=0)
    torch.testing.assert_close(new**2 + sigma**2, torch.ones_like(new), rtol=1e-14, atol=0)
    log_snr = zero.log_snr(t)
    assert torch.isfinite(log_snr[:-1]).all()
    assert (new[-1], sigma[-1], log_snr[-1]) == (0, 1, -math.inf)
    assert (zero.t_min, zero.t_max) == (1 / steps, 1 - 1 / steps)


@every_discrete
def test_zero_terminal_snr_requires_two_steps(made, option):
    with pytest.raises(InstantiationException, match=r"schedule\.num_steps of at least 2"):
        made(option, num_steps=1, zero_terminal_snr=True)


@every_variant
def test_float32_times_lose_no_more_than_their_rounding(schedule, variant):
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(schedule(t.float())[1].double(), schedule(t)[1], rtol=1e-5, atol=0)


@every_variant
def test_copies_and_pickles_are_the_same_schedule(schedule, variant):
    expected = schedule(TIMES)
    for other in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        for value, exact in zip(other(TIMES), expected, strict=True):
            assert torch.equal(value, exact)


@every_option
def test_it_follows_the_device_of_the_times(schedule, option):
    """A learned schedule has a device of its own."""
    expected = schedule(TIMES)
    elsewhere = copy.deepcopy(schedule).to("meta") if schedule.learned else schedule
    assert elsewhere(torch.ones(3, device="meta"))[0].device.type == "meta"
    for value, exact in zip(schedule(TIMES), expected, strict=True):
        assert value.device.type == "cpu"
        assert torch.equal(value, exact)
