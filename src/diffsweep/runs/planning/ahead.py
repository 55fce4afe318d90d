"""What a run computes of its data before it trains, such as latents: how long it takes, and stand-ins for it."""

import time
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from diffsweep.autoencoders import FirstStage
from diffsweep.benchmarks.base import synchronize
from diffsweep.configuration.build import device_of
from diffsweep.datasets import ImageData, Latents
from diffsweep.datasets.latents import BYTES
from diffsweep.models import Model
from diffsweep.runs.latents import BATCH, SPLITS, kept_space, latent_files
from diffsweep.runs.training_samples import keep_samples

COUNTS = ("model.num_pairs", "comparisons.num_pairs", "concept.num_prior")  # of samples that are drawn once


class Ahead(NamedTuple):
    """What is computed before training, and kept in files for later runs.

    Attributes:
        seconds: the predicted time.
        size: the bytes of the files.
        share: the samples in the loaders over those that the training has; below 1 where fewer were drawn.
    """

    seconds: float = 0.0
    size: int = 0
    share: float = 1.0


def fewer(cfg: DictConfig) -> float:
    """Let a configuration draw at most a batch of the samples that it trains on, and return the share that is left.

    Args:
        cfg: changed in place: pairs of a teacher, compared samples or images of the base become fewer.
    """
    share = 1.0
    for key in COUNTS:
        if count := OmegaConf.select(cfg, key):
            few = min(count, BATCH)
            OmegaConf.update(cfg, key, few)
            share = few / count
    return share


def made_ahead(cfg: DictConfig, model: Model, data: ImageData, share: float, scratch: Path) -> Ahead:
    """Let the loaders yield what the training would have, or stand-ins of the same shapes, and return what it costs.

    Of latents that no file has one batch is encoded, and one sample stands for all. Of samples that a model draws for
    the training a batch is drawn.

    Args:
        cfg: the configuration of the rehearsal.
        model: its model.
        data: its data, whose loaders are changed.
        share: the share of drawn samples that :func:`fewer` has left.
        scratch: a folder for drawn samples, which is deleted afterwards.
    """
    space = kept_space(model)
    if (
        space is not None
        and space.cache_dir is None
        and not all(path.is_file() for path in latent_files(cfg, space, data).values())
    ):
        return _encoded(cfg, space, data)
    own = cfg.copy()
    if share < 1 or any(OmegaConf.select(cfg, key) for key in COUNTS):
        own.paths.cache_dir = str(scratch)
    begin = time.perf_counter()
    keep_samples(own, model, data)
    if own.paths.cache_dir == cfg.paths.cache_dir:
        return Ahead()
    synchronize()
    size = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
    return Ahead((time.perf_counter() - begin) / share, round(size / share), share)


def _encoded(cfg: DictConfig, space: FirstStage, data: ImageData) -> Ahead:
    """Time the encoder on a batch, and let its first sample stand for all."""
    samples, device = data.loader_samples("train"), device_of(cfg)
    index = torch.arange(min(BATCH, len(samples)))
    space.posterior(samples[index[:8]]["x"].to(device))  # loads the weights
    synchronize()
    begin = time.perf_counter()
    posterior = space.posterior(samples[index]["x"].to(device)).cpu()
    seconds, rows = (time.perf_counter() - begin) / len(index), 0
    for split in SPLITS:
        whole = data.loader_samples(split)
        alike = posterior[:1].expand(len(whole), *posterior.shape[1:])
        data.replace_samples(split, Latents(alike, whole))
        rows += len(whole)
    space.release()
    return Ahead(seconds * rows, rows * posterior[0].numel() * BYTES["float32"])
