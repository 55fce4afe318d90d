"""Walks beside the calls of the network within them."""

import time

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from diffsweep.benchmarks.base import Bench, Results, compare, part, synchronize, within
from diffsweep.configuration.build import build, build_data, build_diffusion, device_of
from diffsweep.configuration.compose import compose
from diffsweep.configuration.conf import options
from diffsweep.diffusion import Noise, Stream, variational_bound
from diffsweep.diffusion.bound import chain_times
from diffsweep.guidance import ClassifierFreeGuidance
from diffsweep.models import DiffusionModel
from diffsweep.samplers import Sampler


@torch.no_grad()
def sampling_ratio(cfg: DictConfig, model: DiffusionModel, sampler: Sampler, name: str) -> dict[str, float]:
    """A walk against the calls of the network within it, per step."""
    noise = Noise(0, torch.arange(cfg.sample_batch, device=model.device))
    x = noise.normal(*model.autoencoder.shape, stream=Stream.PRIOR)
    return within(
        lambda: sampler(model.denoiser, x, noise=noise), model.denoiser.backbone, sampler.steps, cfg.repeats, name
    )


@part
def sampling(bench: Bench) -> Results:
    """The chosen sampler."""
    cfg = bench.cfg
    model = build_diffusion(cfg).eval().to(device_of(cfg))
    name = cfg.choices.sampler
    return {f"{name} step, against its network calls": sampling_ratio(cfg, model, model.sampler, name)}


@part
def samplers(bench: Bench) -> Results:
    """Every sampler of conf/ but the adaptive one, whose steps are not of one cost, in as many steps as the chosen one."""
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
    """A walk under classifier-free guidance against an unguided one of as many rows of the network: of twice as many samples."""
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
    pairs = [
        (seconds(count, 2.0), seconds(2 * count, 1.0))
        for _ in tqdm(range(cfg.repeats), desc="guidance", dynamic_ncols=True)
    ]
    name = "guided step, against an unguided one with as many network rows"
    return {name: compare([guided for guided, _ in pairs], [plain for _, plain in pairs])}


@part
@torch.no_grad()
def bound(bench: Bench) -> Results:
    """The variational bound on a chain of 50 steps against the network calls within it, per step."""
    cfg = bench.cfg
    model, data = build_diffusion(cfg).eval(), build_data(cfg)
    model.to(device_of(cfg))
    samples = data.split("train")["x"]
    x_0 = samples[torch.arange(cfg.sample_batch) % len(samples)].to(model.device)
    noise = Noise(0, torch.arange(cfg.sample_batch, device=model.device))
    times = chain_times(model.denoiser.schedule, 50)
    ratio = within(
        lambda: variational_bound(model.denoiser, x_0, times, noise, model.autoencoder.levels),
        model.denoiser.backbone,
        len(times) - 1,
        cfg.repeats,
        "bound",
    )
    return {"term of the variational bound, against its network call": ratio}
