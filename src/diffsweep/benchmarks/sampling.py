"""Benchmarks of sampling: what samplers, guidance and the variational bound add to their network calls."""

import time

import torch
from omegaconf import DictConfig

from diffsweep.benchmarks.base import Bench, Ratio, Results, compare, compare_with_calls, part, synchronize
from diffsweep.configuration.build import build, build_data, build_diffusion, device_of
from diffsweep.configuration.compose import compose
from diffsweep.configuration.conf import options
from diffsweep.diffusion import Condition, Known, Noise, PixelMask, Stream, variational_bound
from diffsweep.diffusion.bound import chain_times
from diffsweep.guidance import ClassifierFreeGuidance, RePaint
from diffsweep.models import DiffusionModel
from diffsweep.progress import tracked
from diffsweep.samplers import Sampler


@torch.no_grad()
def sampling_ratio(cfg: DictConfig, model: DiffusionModel, sampler: Sampler, name: str) -> Ratio:
    """Return the ratio of the time of a sampler's step to that of its network calls, as :func:`compare` does.

    The model is sampled without guidance and without a condition, ``cfg.repeats`` times after a warm-up.

    Args:
        cfg: the configuration of ``benchmark.py``; ``sample_batch`` samples are drawn at once.
        model: the model, on its device.
        sampler: the sampler to time.
        name: the label of the progress bar.
    """
    noise = Noise(0, torch.arange(cfg.sample_batch, device=model.device))
    x = noise.normal(*model.autoencoder.shape, stream=Stream.PRIOR)
    return compare_with_calls(
        lambda: sampler(model.denoiser, x, noise=noise), model.denoiser.backbone, sampler.steps, cfg.repeats, name
    )


@part
def sampling(bench: Bench) -> Results:
    """Return, by a label, the ratio of the time of a step of the chosen sampler to that of its network calls.

    This is the part ``sampling`` of ``benchmark.py``: what a sampler costs besides the network.
    """
    cfg = bench.cfg
    model = build_diffusion(cfg).eval().to(device_of(cfg))
    name = cfg.choices.sampler
    return {f"{name} step, against its network calls": sampling_ratio(cfg, model, model.sampler, name)}


@part
def samplers(bench: Bench) -> Results:
    """Return, by label, the ratio of the time of a step to that of its network calls, for every sampler.

    This is the part ``samplers`` of ``benchmark.py``. All samplers take the chosen number of steps. The adaptive one is
    left out, since its steps differ in cost.
    """
    cfg = bench.cfg
    model = build_diffusion(cfg).eval().to(device_of(cfg))
    results = {}
    for option in options("sampler"):
        sampler = build(compose("benchmark", [f"sampler={option}", f"sampler.steps={cfg.sampler.steps}"]), "sampler")
        if sampler.tolerance is None:
            results[f"{option} step, against its network calls"] = sampling_ratio(cfg, model, sampler, option)
    return results


@part
@torch.no_grad()
def guidance(bench: Bench) -> Results:
    """Return the ratio of the time of a guided step to that of an unguided one of twice as many samples.

    This is the part ``guidance`` of ``benchmark.py``, with one result by its label. Both steps give the network the
    same number of rows, since guidance evaluates each sample with and without its condition.
    """
    cfg = bench.cfg
    model = build_diffusion(compose("benchmark", ["model=classifier_free", f"sampler.steps={cfg.sampler.steps}"]))
    model.eval().to(device_of(cfg))
    count = cfg.sample_batch

    def seconds(samples: int, scale: float) -> float:
        indices = torch.arange(samples)
        _, cond = model.request(indices, None)
        x, noise = model.start(indices, seed=0)
        denoiser = ClassifierFreeGuidance(model.denoiser, scale=scale)
        synchronize()
        begin = time.perf_counter()
        model.sampler(denoiser, x, cond, noise)
        synchronize()
        return (time.perf_counter() - begin) / model.sampler.steps

    seconds(count, 2.0), seconds(2 * count, 1.0)
    pairs = [(seconds(count, 2.0), seconds(2 * count, 1.0)) for _ in tracked(range(cfg.repeats), "guidance", "repeat")]
    name = "guided step, against an unguided one with as many network rows"
    return {name: compare([guided for guided, _ in pairs], [plain for _, plain in pairs])}


@part
@torch.no_grad()
def repaint(bench: Bench) -> Results:
    """Return the ratio of the time of a step of the chosen sampler under RePaint to that of its network calls.

    This is the part ``repaint`` of ``benchmark.py``: what drawing known pixels anew and going back in t cost besides
    the network, and the sampler's own cost. Half of each sample is known; the sampler's steps are gone twice, two at a
    time.
    """
    cfg = bench.cfg
    model = build_diffusion(cfg).eval().to(device_of(cfg))
    noise = Noise(0, torch.arange(cfg.sample_batch, device=model.device))
    x = noise.normal(*model.autoencoder.shape, stream=Stream.PRIOR)
    mask = (torch.arange(x.shape[-1], device=x.device) < x.shape[-1] // 2).expand_as(x)
    cond, denoiser = Condition(known=Known(PixelMask(mask), x.clamp(-1, 1))), RePaint(model.denoiser, 2, 2)
    steps = sum(not move.up for move in model.sampler.moves(denoiser, measured=True))
    ratio = compare_with_calls(
        lambda: model.sampler(denoiser, x, cond, noise), model.denoiser.backbone, steps, cfg.repeats, "repaint"
    )
    return {"step under RePaint, against its network calls": ratio}


@part
@torch.no_grad()
def bound(bench: Bench) -> Results:
    """Return, by a label, the ratio of the time of a term of the variational bound to that of its network call.

    This is the part ``bound`` of ``benchmark.py``. The bound is computed for ``sample_batch`` training samples, on a
    grid of 50 steps, each of which is one term.

    Raises:
        ValueError: the schedule is discrete, of fewer than 50 steps.
    """
    cfg = bench.cfg
    model, data = build_diffusion(cfg).eval(), build_data(cfg)
    model.to(device_of(cfg))
    samples = data.split("train")["x"]
    x_0 = samples[torch.arange(cfg.sample_batch) % len(samples)].to(model.device)
    noise = Noise(0, torch.arange(cfg.sample_batch, device=model.device))
    times = chain_times(model.denoiser.schedule, 50)
    ratio = compare_with_calls(
        lambda: variational_bound(model.denoiser, x_0, times, noise, model.autoencoder.levels),
        model.denoiser.backbone,
        len(times) - 1,
        cfg.repeats,
        "bound",
    )
    return {"term of the variational bound, against its network call": ratio}
