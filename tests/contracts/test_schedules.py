"""What every option of conf/schedule promises."""

import copy
import pickle
from pathlib import Path

import pytest
import torch

from diffsweep.runs.build import build

OPTIONS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/schedule").glob("*.yaml"))
TIMES = torch.tensor([0.0, 1e-4, 0.01, 0.1, 0.3, 1 / 3, 0.5, 0.77, 0.9995, 1.0], dtype=torch.float64)

pytestmark = pytest.mark.parametrize("option", OPTIONS)


@pytest.fixture
def schedule(compose, option):
    return build(compose(f"schedule={option}"), "schedule")


@pytest.fixture
def with_steps(compose, option):
    return lambda steps: build(compose(f"schedule={option}", f"schedule.num_steps={steps}"), "schedule")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 1, 1, 1)])
def test_shape_and_dtype_come_back_and_the_value_is_that_of_float64(schedule, dtype, shape):
    t = torch.rand(shape).to(dtype)
    for value, exact in zip(
        (*schedule(t), schedule.log_snr(t)), (*schedule(t.double()), schedule.log_snr(t.double())), strict=False
    ):
        assert value.shape == t.shape
        assert value.dtype == dtype
        torch.testing.assert_close(value, exact.to(dtype), rtol=0, atol=0)


def test_variance_is_preserved(schedule):
    alpha, sigma = schedule(TIMES)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(TIMES), rtol=0, atol=1e-14)


def test_time_0_is_clean_and_every_later_time_is_not(schedule):
    alpha, sigma = schedule(TIMES)
    assert alpha[0] == 1
    assert sigma[0] == 0
    assert (sigma[1:] > 0).all()
    assert (alpha > 0).all()


def test_almost_no_signal_is_left_at_time_1(schedule):
    """At most 3 % of the variance: the exponential schedule, whose betas are small for long, has 2.3 %."""
    alpha, _ = schedule(torch.ones((), dtype=torch.float64))
    assert alpha**2 < 0.03


def test_log_snr_is_the_log_ratio(schedule):
    alpha, sigma = schedule(TIMES[1:])
    torch.testing.assert_close(schedule.log_snr(TIMES[1:]), 2 * (alpha.log() - sigma.log()), rtol=1e-9, atol=1e-9)
    assert schedule.log_snr(TIMES[:1]) == float("inf")


def test_log_snr_falls_strictly_on_and_off_the_grid(schedule):
    t = torch.arange(1, 5 * 1000 + 1, dtype=torch.float64) / (5 * 1000)
    assert (schedule.log_snr(t).diff() < 0).all()
    alpha, sigma = schedule(t)
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() >= 0).all()


def test_time_of_inverts_log_snr_on_and_off_the_grid(schedule):
    t = torch.cat([torch.arange(0, 1001, dtype=torch.float64) / 1000, torch.rand(1000, dtype=torch.float64)])
    torch.testing.assert_close(schedule.time_of(schedule.log_snr(t)), t, rtol=0, atol=1e-9)


def test_log_snr_inverts_time_of(schedule):
    low, high = schedule.log_snr(torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64))
    values = low + (high - low) * torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    torch.testing.assert_close(schedule.log_snr(schedule.time_of(values)), values, rtol=0, atol=1e-7)


def test_time_of_values_beyond_the_range_is_an_end(schedule):
    ends = schedule.time_of(torch.tensor([float("inf"), 200.0, -200.0, float("-inf")], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-12)


def test_log_snr_is_finite_between_t_min_and_t_max(schedule):
    assert torch.isfinite(schedule.log_snr(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64))).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 49, 1000])
def test_any_number_of_steps_works(with_steps, steps):
    """Also 49, where (1 / 49) * 49 is not 1 in floating point."""
    schedule = with_steps(steps)
    assert schedule.num_steps == steps
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha, sigma = schedule(t)
    log_snr = schedule.log_snr(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=0, atol=1e-14)
    torch.testing.assert_close(log_snr[1:], 2 * (alpha[1:].log() - sigma[1:].log()), rtol=1e-9, atol=1e-9)
    assert (log_snr.diff() < 0).all()
    assert (alpha.diff() < 0).all()


@pytest.mark.parametrize("steps", [7, 49, 98, 103, 187])
def test_grid_values_do_not_depend_on_how_the_time_was_rounded(with_steps, steps):
    """k / T times T is not always k: the value must still be the table's, not one interpolated from the cell below."""
    schedule = with_steps(steps)
    k = torch.arange(1, steps + 1, dtype=torch.float64)
    above, below = (torch.nextafter(k / steps, torch.full_like(k, end)) for end in (2.0, 0.0))
    exact = schedule.log_snr(k / steps)
    for t in (above, below):
        torch.testing.assert_close(schedule.log_snr(t), exact, rtol=0, atol=1e-5)


def test_float32_times_lose_no_more_than_their_rounding(schedule):
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(schedule(t.float())[1].double(), schedule(t)[1], rtol=1e-5, atol=0)


def test_copies_and_pickles_are_the_same_schedule(schedule):
    expected = schedule(TIMES)
    for other in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        for value, exact in zip(other(TIMES), expected, strict=False):
            assert torch.equal(value, exact)


def test_it_follows_the_device_of_the_times(schedule):
    assert schedule(torch.ones(3, device="meta"))[0].device.type == "meta"
    alpha, _ = schedule(TIMES)  # and answers on the CPU as before
    assert alpha.device.type == "cpu"
    assert alpha[0] == 1
