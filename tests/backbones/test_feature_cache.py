"""Features that are reused between steps: when they are computed anew, under solvers, guidance, threads, autocast."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from diffsweep.backbones import DiT, Execution, NonUniformCache, UNet, UniformCache
from diffsweep.configuration.build import build
from diffsweep.configuration.conf import options
from diffsweep.diffusion import Condition, Eps, Known, NetworkDenoiser, Noise, PixelMask, Stream, counting
from diffsweep.guidance import ClassifierFreeGuidance, RePaint
from diffsweep.layers import ControlBranch
from diffsweep.samplers import DDIM, Heun
from diffsweep.schedules import Cosine


def randomised(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


@pytest.fixture
def denoiser():
    return NetworkDenoiser(randomised(DiT(1, 1, 8, channels=16, depth=4, num_classes=3)), Cosine(1000), Eps())


X = Noise(0, torch.arange(3)).normal(1, 8, 8, stream=Stream.PRIOR)
COND = Condition(vector=torch.tensor([0, 1, 2]))
EVERY_OTHER = UniformCache(2)
# solvers with one call a step, with two, between two times, with correctors, and with a start of their own
DIFFERENT = ("ancestral", "heun", "dpm_solver", "predictor_corrector", "plms")


def time(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("mixed", [False, True])
def test_everything_is_computed_where_features_are_of_something_else(denoiser, mixed):
    """Steps begin at 1, 0.8, 0.6, 0.4 and 0.2, and all but the first one are partial."""
    cached = UniformCache(5)(denoiser, torch.linspace(1, 0, 6, dtype=torch.float64))
    two, other = torch.cat([X, X]), Condition(vector=torch.tensor([1, 1, 1]))
    calls = [
        ("first", True, (X, time(1.0), COND)),
        ("same step", True, (X, time(0.81), COND)),
        ("next step", False, (X, time(0.8), COND)),
        ("later time", True, (X, time(0.81), COND)),
        ("lower again", False, (X, time(0.5), COND)),
        ("two rows each", True, (two, time(0.5), COND.cat(COND.null()))),
        ("one row each", True, (X, time(0.5), COND)),
        ("same time", False, (X, time(0.5), COND)),
        ("another condition", True, (X, time(0.4), other)),
        ("of that condition", False, (X, time(0.4), other)),
        ("a time for each", True, (X, torch.full((3,), 0.3), other)),
        ("one time", True, (X, time(0.3), other)),
        ("gradients", True, (X.clone().requires_grad_(), time(0.2), other)),
        ("no gradients", False, (X, time(0.1), other)),
    ]
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        for name, whole, (x, *rest) in calls:
            with counting(denoiser) as count:
                estimate = cached(x, *rest)
            assert count.partial == (0 if whole else len(x)), name
            if whole:
                assert torch.equal(estimate.x0, denoiser(x, *rest).x0), name


@pytest.mark.parametrize(
    "option",
    [
        pytest.param(option, marks=() if option in DIFFERENT else pytest.mark.slow)
        for option in options("sampler")
        if option not in ("ode", "consistency")  # the one is refused, the other is of another kind of model
    ],
)
def test_every_solver_reuses_features_in_every_other_step(compose, option, denoiser):
    sampler = build(compose(f"sampler={option}", "sampler.steps=6"), "sampler")
    times, noise = sampler.times(denoiser.schedule), Noise(0, torch.arange(3))

    def run(cache):
        with counting(denoiser) as count:
            return sampler(denoiser if cache is None else cache(denoiser, times), X, COND, noise), count

    (plain, calls), (whole, of_whole), (_, half) = (run(cache) for cache in (None, UniformCache(1), EVERY_OTHER))
    assert torch.equal(whole, plain)
    assert of_whole.partial == 0
    assert half.rows == of_whole.rows == calls.rows
    assert abs(half.partial - half.rows / 2) <= 3 * (calls.calls / 6)  # solvers differ in the calls of their ends


def test_guidance_in_a_part_of_the_time_computes_anew_at_its_ends(denoiser):
    """Without guidance a step has 3 rows, with it 6; steps 2 and 4, where the rows change, are not of the cache's."""
    sampler = DDIM(steps=6)
    times = sampler.times(denoiser.schedule)
    guided = ClassifierFreeGuidance(UniformCache(9)(denoiser, times), 2.0, interval=(0.3, 0.7))  # 0.67, 0.5, 0.33
    with counting(denoiser) as count:
        sampler(guided, X, COND)
    assert (count.rows, count.partial) == (3 * 3 + 3 * 6, 3 + 2 * 6)


def test_guidance_without_a_condition_keeps_its_features(denoiser):
    sampler = DDIM(steps=6)
    with counting(denoiser) as count:
        sampler(ClassifierFreeGuidance(EVERY_OTHER(denoiser, sampler.times(denoiser.schedule)), 0.0), X, COND)
    assert count.partial == 3 * 3


def test_repaint_computes_everything_when_it_goes_back(denoiser):
    """Of steps 0 1 | 0 1 | 2 3 | 2 3 | 4 5 | 4 5 the first of each pair is whole: of the cache, or after a way back."""
    sampler = DDIM(steps=6)
    known = Known(PixelMask(torch.arange(8).expand_as(X) < 4), X.clamp(-1, 1))
    cond = Condition(vector=COND.vector, known=known)
    repaint = RePaint(UniformCache(9)(denoiser, sampler.times(denoiser.schedule)), 2, 2)
    up = [move.up for move in sampler.moves(repaint, measured=True)]
    with counting(denoiser) as count:
        sampler(repaint, X, cond, Noise(0, torch.arange(3)))
    assert count.rows - count.partial == 3 * (1 + sum(a and not b for a, b in itertools.pairwise(up)))
    assert count.partial > 0


def test_inversion_is_exact(denoiser):
    sampler = DDIM(steps=6, clip="none")
    cached = EVERY_OTHER(denoiser, sampler.times(denoiser.schedule))
    assert torch.equal(sampler.invert(cached, X, COND), sampler.invert(denoiser, X, COND))


def test_trajectories_of_several_threads_have_features_of_their_own(denoiser):
    sampler = Heun(steps=4)

    def run(seed):
        x = Noise(seed, torch.arange(3)).normal(1, 8, 8, stream=Stream.PRIOR)
        return sampler(EVERY_OTHER(denoiser, sampler.times(denoiser.schedule)), x, COND)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, range(8)))
    for seed, x in enumerate(together):
        assert torch.equal(x, run(seed))


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_control_networks_add_the_same_in_partial_calls(kind):
    """At the time and state of the features a partial call gives the output of a whole one, with control too."""
    made = {"unet": UNet(1, 1, 8, channels=8, channel_mult=[1, 2]), "dit": DiT(1, 1, 8, channels=16, depth=4)}
    network = randomised(made[kind])
    network.controls.append(randomised(ControlBranch(network.copied_half(), 1)))
    cond = Condition(control=torch.randn(3, 1, 8, 8))
    denoiser = NetworkDenoiser(network, Cosine(1000), Eps())
    cached = UniformCache(9)(denoiser, torch.linspace(1, 0, 4, dtype=torch.float64))
    whole = cached(X, time(0.6), cond).eps
    with counting(denoiser) as count:
        torch.testing.assert_close(cached(X, time(0.6), cond).eps, whole)
    assert count.partial == 3
    assert not torch.allclose(whole, denoiser(X, time(0.6), Condition()).eps)


def test_even_spacing_is_a_power_of_1():
    assert list(NonUniformCache(5, power=1.0).whole_steps(50)) == list(UniformCache(5).whole_steps(50))


def test_whole_steps_are_densest_at_the_centre():
    """Of l^2 with l from -3 to 3 the squares are those of whole numbers: 18 steps around the centre 9."""
    assert list(NonUniformCache(3, centre=0.5, power=2.0).whole_steps(18)) == [0, 5, 8, 9, 10, 13]


@pytest.mark.parametrize(
    ("cache", "settings", "key"),
    [
        (UniformCache, {"interval": 0}, "interval"),
        (UniformCache, {"branch": 0}, "branch"),
        (NonUniformCache, {"interval": -1}, "interval"),
        (NonUniformCache, {"centre": 1.2}, "centre"),
        (NonUniformCache, {"power": 0.5}, "power"),
    ],
)
def test_values_out_of_range_are_refused(cache, settings, key):
    with pytest.raises(ValueError, match=rf"^feature_cache\.{key} "):
        cache(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("regions", ["network", "blocks"])
def test_compiled_networks_reuse_features_too(denoiser, regions):
    sampler = DDIM(steps=6)

    def run():
        return sampler(EVERY_OTHER(denoiser, sampler.times(denoiser.schedule)), X, COND)

    plain = run()
    Execution(regions, "aot_eager")([denoiser.backbone])
    torch.testing.assert_close(run(), plain)


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for(denoiser):
    denoiser, x, cond = denoiser.cuda(), X.cuda(), COND.to(torch.device("cuda"))
    times = torch.linspace(1, 0.1, 6, dtype=torch.float64)

    @torch.no_grad()
    def run():
        cached = EVERY_OTHER(denoiser, times)
        return [cached(x, t, cond).x0 for t in times]

    first = run()  # it fills tables
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)
