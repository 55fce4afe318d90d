"""Latents of the data, which are computed once before training and kept in a file."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from diffsweep.autoencoders import FirstStage
from diffsweep.configuration.build import device_of
from diffsweep.datasets import ImageData, Latents, Samples, Split, open_latents, write_latents
from diffsweep.errors import UserError
from diffsweep.files import ContentError, make_once
from diffsweep.metrics import identify
from diffsweep.models import Model
from diffsweep.progress import tracked

SPLITS: tuple[Split, ...] = ("train", "val")
BATCH = 256


def keep_latents(cfg: DictConfig, model: Model, data: ImageData) -> None:
    """Let the data loaders yield stored latents in place of pixels, if the model diffuses in cached latents.

    Latents are computed and written first if no file has them yet, unless ``autoencoder.cache_dir`` names a folder that
    must have them. Nothing is done if the model has no latent space, its cache is off, or it needs the pixels
    themselves.

    Args:
        cfg: the run's configuration.
        model: the model; its autoencoder is moved to the CPU afterwards.
        data: the dataset, whose training and held-out loaders are changed.

    Raises:
        UserError: the folder ``autoencoder.cache_dir`` has no latents, or those of another autoencoder or of other
            data.
    """
    if (space := kept_space(model)) is None:
        return
    header = identity(space, data)
    for split, path in latent_files(cfg, space, data).items():
        samples = data.loader_samples(split)
        of_split = {**header, "split": split, "rows": len(samples)}
        if space.cache_dir is None:
            make_once(path, partial(_write, path, of_split, space, samples, device_of(cfg)))
        try:
            data.replace_samples(split, Latents(open_latents(path, of_split), samples))
        except ContentError as error:
            key = "" if space.cache_dir is None else f"autoencoder.cache_dir={path.parent}: "
            raise UserError(f"{key}{error}") from error
    space.release()


def kept_space(model: Model) -> FirstStage | None:
    """Return the latent space of a model that trains on latents from a file; None if it trains on the data."""
    space = getattr(model, "autoencoder", None)
    return space if isinstance(space, FirstStage) and space.cache and not model.requires_pixels else None


def latent_files(cfg: DictConfig, space: FirstStage, data: ImageData) -> dict[Split, Path]:
    """Return the file of the latents of each split, which may not exist yet.

    Args:
        cfg: the run's configuration.
        space: the latent space.
        data: the dataset that is encoded.
    """
    folder = Path(space.cache_dir or Path(cfg.paths.cache_dir) / f"latents-{identify(identity(space, data))}")
    return {split: folder / f"{split}.safetensors" for split in SPLITS}


def identity(space: FirstStage, data: ImageData) -> dict[str, Any]:
    """Return all that the stored latents of a dataset depend on, by name: a hash identifies their file by it.

    Args:
        space: the latent space of a trained autoencoder.
        data: the dataset that is encoded.
    """
    return {
        "autoencoder": space.weights_hash,
        "data": data.fingerprint,
        "flip": data.flip,
        "latents": space.latents,
        "size": list(space.shape),
    }


def _write(path: Path, header: dict[str, Any], space: FirstStage, samples: Samples, device: torch.device) -> None:
    batches = torch.arange(len(samples)).split(BATCH)
    tracked_batches = tracked(batches, f"latents of {header['split']}", "batch")
    encoded = (space.posterior(samples[index]["x"].to(device)) for index in tracked_batches)
    write_latents(path, header, encoded, len(samples))
