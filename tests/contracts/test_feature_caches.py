"""The contract of feature caches: what holds for every option of conf/feature_cache and every network that has them."""

import math

import pytest
import torch
from slower import crossed
from torch.utils.flop_counter import FlopCounterMode

from diffsweep.backbones import DiT, Reuse
from diffsweep.configuration.build import build
from diffsweep.configuration.conf import CONF, options, parents
from diffsweep.configuration.declarations import declared
from diffsweep.diffusion import Condition, Eps, NetworkDenoiser, Noise, Stream, counting
from diffsweep.guidance import ClassifierFreeGuidance
from diffsweep.samplers import DDIM
from diffsweep.schedules import Cosine

OPTIONS = [option for option in options("feature_cache") if option != "none"]
NETWORKS = [
    option
    for option in options("backbone")
    if not parents("backbone", option)
    and option != "base_and_residual"  # its two networks could
    and "cached_features" in declared("backbone", option).supports
]
STEPS = 7
ENTERED_FROM = {"unet": ["up.3"], "unet3d": ["up.3"], "uvit": ["late.0"], "dit": ["blocks.1", "blocks.2"]}
ENTERED_FROM["dit3d"] = ENTERED_FROM["dit"]  # the blocks that make the deep features of branch 1


@pytest.fixture
def network(compose, backbone):
    """Return a network with random weights, of samples of 8 x 8 pixels, in evaluation mode."""
    frames = ["space.num_frames=2"] if "clips" in declared("backbone", backbone).supports else []
    sizes = ("backbone.channels=16", "condition.num_classes=3", *frames)
    made = build(compose(f"backbone={backbone}", *sizes), "backbone")
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made.eval().requires_grad_(False)


def cache_of(compose, option, **settings):
    typed = [f"feature_cache.{key}={value}" for key, value in settings.items()]
    return build(compose(f"feature_cache={option}", *typed), "feature_cache")


def sampled(network, cache=None, scale=1.0, steps=STEPS):
    """Return three samples by DDIM, and the count of evaluations."""
    denoiser, sampler = NetworkDenoiser(network, Cosine(1000), Eps()), DDIM(steps=steps)
    times, cond = sampler.times(denoiser.schedule), Condition(vector=torch.tensor([0, 1, 2]))
    shape = (1, 2, 8, 8) if "clips" in network.supports else (1, 8, 8)
    x = Noise(0, torch.arange(3)).normal(*shape, stream=Stream.PRIOR)
    used = denoiser if cache is None else cache(denoiser, times)
    with counting(denoiser) as count:
        return sampler(ClassifierFreeGuidance(used, scale), x, cond), count


def flops(function, *arguments, **keywords):
    with FlopCounterMode(display=False) as counter:
        function(*arguments, **keywords)
    return counter.get_total_flops()


@pytest.mark.parametrize(("option", "backbone"), crossed(OPTIONS, NETWORKS))
def test_whole_steps_give_the_bits_of_no_cache(compose, option, network, backbone):
    plain, count = sampled(network, scale=2.0)
    assert (count.calls, count.rows, count.partial) == (STEPS, 6 * STEPS, 0)
    every, count = sampled(network, cache_of(compose, option, interval=1), scale=2.0)
    assert torch.equal(every, plain)
    assert (count.rows, count.partial) == (6 * STEPS, 0)
    assert torch.equal(sampled(network, cache_of(compose, option, branch=network.branches), 2.0)[0], plain)
    assert not torch.equal(sampled(network, cache_of(compose, option), scale=2.0)[0], plain)


@pytest.mark.parametrize(("option", "backbone"), crossed(OPTIONS, NETWORKS))
def test_constant_deep_features_are_reused_exactly(compose, option, network, backbone):
    """Without weights the inner blocks of a transformer add nothing, and the lower levels of a U-Net give zeros."""
    with torch.no_grad():
        for name in ENTERED_FROM[backbone]:
            for parameter in network.get_submodule(name).parameters():
                parameter.zero_()
    cached, count = sampled(network, cache_of(compose, option, interval=5))
    torch.testing.assert_close(cached, sampled(network)[0], rtol=0, atol=0)
    assert count.partial == 3 * (STEPS - 2)


@pytest.mark.parametrize("option", OPTIONS)
def test_one_of_n_steps_is_whole_and_the_first_is(compose, option):
    for interval in (1, 2, 3, 5, 10, 60):
        cache = cache_of(compose, option, interval=interval)
        for steps in (1, 2, 7, 50):
            whole = list(cache.whole_steps(steps))
            assert len(set(whole)) == len(whole) == math.ceil(steps / interval)
            assert (whole, whole[0]) == (sorted(whole), 0)
            assert whole[-1] < steps


@pytest.mark.parametrize(("option", "backbone"), [(option, "dit") for option in OPTIONS])
def test_operations_of_a_trajectory_are_those_of_its_whole_and_partial_calls(compose, option, network, backbone):
    """A partial call of a DiT costs as much as a DiT of 2 b blocks."""
    cache, x, cond = cache_of(compose, option, interval=3), torch.zeros(3, 1, 8, 8), Condition(vector=torch.arange(3))
    shallow = DiT(1, 1, 8, channels=16, depth=2, num_classes=3).requires_grad_(False)
    whole, partial = (flops(each, x, torch.zeros(3), cond) for each in (network, shallow))
    assert flops(sampled, network, cache, steps=20) == 7 * whole + 13 * partial


@pytest.mark.parametrize("backbone", NETWORKS)
def test_partial_calls_cost_less_the_smaller_the_branch(network, backbone):
    x = torch.zeros(1, 1, *([2] if "clips" in network.supports else []), 8, 8)
    costs = []
    for branch in range(1, network.branches + 1):
        deep = network(x, torch.zeros(1), reuse=Reuse(branch))[1]
        costs.append(flops(network, x, torch.zeros(1), reuse=Reuse(branch, deep)))
    assert costs == sorted(set(costs))
    assert costs[-1] == flops(network, x, torch.zeros(1))


def test_every_option_is_read_from_a_file():
    assert {path.stem for path in (CONF / "feature_cache").iterdir()} == {*OPTIONS, "none"}
