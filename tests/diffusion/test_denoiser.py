"""A network with a schedule and a prediction is a denoiser: its inputs, its output, and the cache between calls."""

import copy
import functools

import pytest
import torch

from diffsweep import schedules
from diffsweep.diffusion import EDM, X0, Condition, Eps, Flow, NetworkDenoiser, Score, V
from diffsweep.schedules import VE, VP, Learned, Linear

X_0 = torch.tensor([[0.4, -1.0], [0.9, 0.0]], dtype=torch.float64)
EPS = torch.tensor([[1.3, 0.2], [-0.7, 2.1]], dtype=torch.float64)
TIMES = [1e-3, 0.25, 0.5, 0.999]
SCHEDULES = {
    "linear": Linear(1000),
    "zero_terminal": Linear(1000, zero_terminal_snr=True),
    "vp": VP(),
    "ve": VE(),
    "edm": schedules.EDM(),
    "flow": schedules.Flow(),
}
KINDS = {
    "eps": Eps,
    "x0": X0,
    "v": V,
    "score": Score,
    "scaled_score": functools.partial(Score, scale_by_sigma=True),
    "flow": Flow,
    "edm": EDM,
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def tensor(*values, dtype=torch.float64):
    return torch.tensor(values if len(values) > 1 else values[0], dtype=dtype)


class Recorder(torch.nn.Module):
    """A network that keeps its inputs and returns a fixed output."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x, c_noise, cond):
        self.received = x, c_noise, cond
        return self.output


class Wavy(torch.nn.Module):
    """A network whose output depends on all of its inputs."""

    def __init__(self, heads=1):
        super().__init__()
        self.heads = heads

    def forward(self, x, c_noise, cond):
        time = c_noise.reshape(-1, *[1] * (x.ndim - 1)) / 300
        return torch.cat([torch.sin((head + 1) * x + time) for head in range(self.heads)], dim=1).to(x.dtype)


@every_schedule
@every_kind
@pytest.mark.parametrize("t", [tensor(0.3), tensor(0.3, 0.9)], ids=["one_time", "times"])
def test_a_network_that_knows_the_target_denoises_perfectly(kind, schedule, t):
    prediction = kind("fixed_large")
    cond = Condition(vector=torch.tensor([1, 2]))
    alpha, sigma = (value.reshape(-1, 1) for value in schedule(t))
    network = Recorder(prediction.target(X_0, EPS, alpha, sigma))
    denoiser = NetworkDenoiser(network, schedule, prediction)
    x_t = alpha * X_0 + sigma * EPS
    denoised = denoiser(x_t, t, cond)
    torch.testing.assert_close(denoised.x0, X_0, rtol=0, atol=1e-11)
    torch.testing.assert_close(denoised.eps, EPS, rtol=0, atol=1e-11)
    assert denoised.variance_mix == 1
    x, c_noise, seen_cond = network.received
    torch.testing.assert_close(x, prediction.coefficients(alpha, sigma).c_in * x_t)
    assert seen_cond is cond
    torch.testing.assert_close(c_noise, prediction.c_noise(schedule, t).expand(2))
    assert torch.equal(denoiser.output(x_t, t, cond), network.output)


@every_schedule
@every_kind
@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_a_scalar_time_is_the_same_as_that_time_for_each_sample(kind, schedule, variance):
    prediction = kind(variance)
    denoiser = NetworkDenoiser(Wavy(prediction.heads), schedule, prediction)
    for time in TIMES:
        one, each = denoiser(X_0, tensor(time)), denoiser(X_0, torch.full((2,), time, dtype=torch.float64))
        for value, expected in zip(one, each, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        outputs = denoiser.output(X_0, tensor(time)), denoiser.output(X_0, tensor(time, time))
        torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)


@every_kind
@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), Learned(width=8)], ids=[*SCHEDULES, "learned"])
def test_the_network_receives_the_same_time_from_a_scalar_and_from_a_batch(kind, schedule):
    network = Recorder(torch.zeros(2, 2, dtype=torch.float64))
    denoiser = NetworkDenoiser(network, schedule, kind())
    for time in TIMES:
        times = []
        for t in (tensor(time), tensor(time, time)):
            denoiser(X_0, t)
            times.append(network.received[1].detach())
        assert times[0].shape == times[1].shape == (2,)
        assert times[0].dtype == times[1].dtype == torch.float64
        torch.testing.assert_close(*times, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_network_receives_the_time_in_single_precision_at_least(dtype):
    """bfloat16 would round 999 to 1000."""
    network = Recorder(torch.zeros(2, 3, dtype=dtype))
    denoiser = NetworkDenoiser(network, Linear(1000), Eps())
    for t in (tensor(1.0), tensor(1.0, 1.0), torch.ones((), dtype=torch.float32)):
        denoised = denoiser(torch.ones(2, 3, dtype=dtype), t)
        x, c_noise, _ = network.received
        assert x.dtype == denoised.x0.dtype == denoised.eps.dtype == dtype
        assert c_noise.dtype == torch.promote_types(dtype, torch.float32)
        torch.testing.assert_close(c_noise, torch.full_like(c_noise, 999.0), rtol=1e-6, atol=0)


def test_estimates_have_the_type_of_the_samples_whatever_the_network_computes_in():
    """Under autocast a network's output is bfloat16; what follows, such as guidance, is not rounded again."""
    denoiser = NetworkDenoiser(Recorder(torch.randn(2, 6, dtype=torch.bfloat16)), Linear(1000), Eps("learned_range"))
    denoised = denoiser(torch.ones(2, 3), tensor(0.5, 1.0).float())
    assert {denoised.x0.dtype, denoised.eps.dtype, denoised.variance_mix.dtype} == {torch.float32}


@every_kind
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 4), (2, 1, 2, 4, 4)])
@pytest.mark.parametrize("t", [tensor(0.3), tensor(0.3, 0.8)], ids=["one_time", "times"])
def test_a_learned_variance_is_the_second_half_of_the_channels(kind, shape, t):
    """Output channels C .. 2C run from fixed small at -1 to fixed large at 1, and nothing is clamped."""
    x_t, output, raw = torch.randn(3, *shape, dtype=torch.float64).unbind()
    network = Recorder(torch.cat([output, 2 * raw], dim=1))
    denoiser = NetworkDenoiser(network, VP(), kind("learned_range"))
    denoised, plain = denoiser(x_t, t), NetworkDenoiser(Recorder(output), VP(), kind())(x_t, t)
    assert torch.equal(denoised.x0, plain.x0)
    assert torch.equal(denoised.eps, plain.eps)
    torch.testing.assert_close(denoised.variance_mix, (2 * raw + 1) / 2)
    assert torch.equal(denoiser.output(x_t, t), output)


def test_the_range_of_a_learned_variance_is_from_fixed_small_to_fixed_large():
    raw = tensor(-1.0, 0.0, 1.0).reshape(1, 3)
    network = Recorder(torch.cat([torch.zeros_like(raw), raw], dim=1))
    denoised = NetworkDenoiser(network, VP(), Eps("learned_range"))(torch.zeros(1, 3).double(), tensor(0.5))
    assert denoised.variance_mix.tolist() == [[0.0, 0.5, 1.0]]


@every_schedule
@every_kind
def test_cached_levels_do_not_change_results(kind, schedule):
    denoiser = NetworkDenoiser(Wavy(), schedule, kind())
    first = [denoiser(X_0, tensor(time)) for time in TIMES]
    for _ in range(2):
        for time, expected in zip(TIMES, first, strict=True):
            denoised = denoiser(X_0, tensor(time))
            assert torch.equal(denoised.x0, expected.x0)
            assert torch.equal(denoised.eps, expected.eps)


def test_levels_are_cached_for_any_input():
    denoiser = NetworkDenoiser(Wavy(), VP(), EDM())
    denoiser(X_0.float(), tensor(0.5))
    for x in (X_0, X_0[:1], X_0.float(), X_0.bfloat16()):
        fresh = NetworkDenoiser(Wavy(), VP(), EDM())(x, tensor(0.5))
        again = denoiser(x, tensor(0.5))
        assert again.x0.dtype == x.dtype
        assert torch.equal(again.x0, fresh.x0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_cached_levels_do_not_depend_on_the_dtype_of_the_time(dtype):
    """0.5 is the same number in each dtype, but the schedule returns the dtype of its argument."""
    denoiser = NetworkDenoiser(Wavy(), VP(), Eps())
    expected = denoiser(X_0, tensor(0.5))
    other = NetworkDenoiser(Wavy(), VP(), Eps())
    other(X_0, tensor(0.5, dtype=dtype))
    assert torch.equal(other(X_0, tensor(0.5)).x0, expected.x0)


def test_a_schedule_is_evaluated_once_per_time():
    denoiser, evaluated = NetworkDenoiser(Wavy(), VP(), V()), []
    denoiser.schedule.register_forward_hook(lambda schedule, given, levels: evaluated.append(given))
    for _ in range(3):
        for time in TIMES:
            denoiser(X_0, tensor(time))
    assert len(evaluated) == len(TIMES)


def test_a_learned_schedule_is_evaluated_again_since_it_changes():
    schedule = Learned(width=8)
    denoiser = NetworkDenoiser(Wavy(), schedule, V())
    for prediction in (V(), EDM()):
        denoiser.prediction = prediction
        before = denoiser(X_0, tensor(0.5))
        with torch.no_grad():
            schedule.gamma_1 += 1
            schedule.l1.weight *= 1.5
        after = denoiser(X_0, tensor(0.5))
        fresh = NetworkDenoiser(Wavy(), schedule, prediction)(X_0, tensor(0.5))
        assert not torch.allclose(after.x0, before.x0)
        assert torch.equal(after.x0, fresh.x0)
        batch = denoiser(X_0, tensor(0.5, 0.5))
        torch.testing.assert_close(after.x0, batch.x0, rtol=1e-12, atol=1e-12)


def test_gradients_reach_a_learned_schedule_from_a_batch_of_times():
    schedule = Learned(width=8)
    denoiser = NetworkDenoiser(Wavy(), schedule, V())
    denoiser(X_0, tensor(0.2, 0.7)).x0.sum().backward()
    for parameter in schedule.parameters():
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().max() > 0


def test_a_copy_has_a_cache_of_its_own():
    denoiser = NetworkDenoiser(Wavy(), VP(), V())
    expected = denoiser(X_0, tensor(0.5))
    other = copy.deepcopy(denoiser)
    assert torch.equal(other(X_0, tensor(0.5)).x0, expected.x0)
    other(X_0, tensor(0.6))
    assert torch.equal(denoiser(X_0, tensor(0.6)).x0, other(X_0, tensor(0.6)).x0)
    assert not denoiser.state_dict()
