"""A benchmark of sampling that reuses deep features between steps, against the same sampling without it."""

import time

import torch

from diffsweep.backbones import FeatureCache, UniformCache
from diffsweep.benchmarks.base import Bench, Results, compare, part, synchronize
from diffsweep.configuration.build import build, build_diffusion, device_of
from diffsweep.errors import UserError
from diffsweep.progress import tracked

INTERVALS = (2, 3, 5, 10)


@part
@torch.no_grad()
def caching(bench: Bench) -> Results:
    """Return the ratios of the time of sampling that reuses deep features to that without it, one for each cache.

    This is the part ``caching`` of ``benchmark.py``. The network, the sampler and its steps are those of the
    configuration; ``sample_batch`` samples are drawn at once, in turn with and without. The cache is that of the group
    ``feature_cache``; with ``none`` several are timed, which compute everything in every 2nd, 3rd, 5th and 10th step.

    Raises:
        UserError: the network has no features that can be reused.
    """
    cfg = bench.cfg
    model = build_diffusion(cfg).eval().to(device_of(cfg))
    backbone = model.denoiser.backbone
    if "cached_features" not in getattr(backbone, "supports", ()) or getattr(backbone, "branches", 1) == 1:
        raise UserError(f"backbone={cfg.choices.backbone} has no features to reuse; use backbone=unet, dit or uvit")
    chosen: FeatureCache | None = build(cfg, "feature_cache")
    caches = {f"feature_cache={cfg.choices.feature_cache}": chosen}
    if chosen is None:
        caches = {f"everything in one of {interval} steps": UniformCache(interval) for interval in INTERVALS}
    indices = torch.arange(cfg.sample_batch)
    _, cond = model.request(indices, None)

    def seconds(cache: FeatureCache | None) -> float:
        model.feature_cache = cache
        x, noise = model.start(indices, seed=0)
        synchronize()
        begin = time.perf_counter()
        model.sample_from(x, noise, cond)
        synchronize()
        return time.perf_counter() - begin

    results, name = {}, f"{cfg.choices.sampler} of {cfg.sampler.steps} steps"
    for label, cache in caches.items():
        seconds(cache), seconds(None)
        pairs = [(seconds(cache), seconds(None)) for _ in tracked(range(cfg.repeats), label, "repeat")]
        results[f"{name} by {cfg.choices.backbone}, {label}"] = compare([a for a, _ in pairs], [b for _, b in pairs])
    return results
