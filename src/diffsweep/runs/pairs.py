"""Pairs of a teacher, noise and the samples that its trajectories lead to, drawn once and kept in a file."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from diffsweep.configuration.build import device_of
from diffsweep.datasets import ImageData, StoredPairs, open_latents, write_latents
from diffsweep.datasets.pairs import held_out
from diffsweep.errors import UserError
from diffsweep.files import ContentError, make_once
from diffsweep.layers import weights_hash
from diffsweep.metrics import identify
from diffsweep.models import Model, Reflow
from diffsweep.models.reflow import PAIRED
from diffsweep.progress import tracked
from diffsweep.samplers.settings import settings_of

NAME, BATCH = "pairs", 256


def keep_pairs(cfg: DictConfig, model: Model, data: ImageData) -> None:
    """Let the data loaders yield stored pairs of the teacher in place of data, if the model learns from stored pairs.

    The pairs are drawn and written first, with progress, if no file has them yet.

    Args:
        cfg: the run's configuration.
        model: the model.
        data: the dataset, whose training and held-out loaders are changed.

    Raises:
        UserError: the file has other content than its name promises.
    """
    if not isinstance(model, Reflow) or model.num_pairs is None:
        return
    header = identity(model, data)
    path = Path(cfg.paths.cache_dir) / f"pairs-{identify(header)}" / "pairs.safetensors"
    make_once(path, partial(_write, path, header, model, data, device_of(cfg)))
    try:
        pairs = open_latents(path, header, NAME)
    except ContentError as error:
        raise UserError(str(error)) from error
    samples, end = data.split("train"), model.num_pairs
    first = end - held_out(end)
    data.replace_samples("train", StoredPairs(pairs, 0, first, samples))
    data.replace_samples("val", StoredPairs(pairs, first, end, samples))


def identity(model: Reflow, data: ImageData) -> dict[str, Any]:
    """Return all that the stored pairs of a teacher depend on, by name: a hash identifies their file by it.

    Args:
        model: the student.
        data: the dataset whose annotations are the conditions of the pairs.
    """
    teacher = model.teacher
    return {
        "teacher": weights_hash(teacher.base),
        "sampler": settings_of(teacher.sampler),
        "guidance": teacher.scales,
        "seed": PAIRED,
        "pairs": model.num_pairs,
        "data": data.fingerprint,
        "size": list(model.autoencoder.shape),
    }


def _write(path: Path, header: dict[str, Any], model: Reflow, data: ImageData, device: torch.device) -> None:
    assert model.num_pairs is not None
    samples, before = data.split("train"), model.device
    model.to(device)
    batches = torch.arange(model.num_pairs).split(BATCH)

    def drawn(index: torch.Tensor) -> torch.Tensor:
        annotations = samples.annotations(index % len(samples))
        ends = model.draw_pairs(annotations, model.noise_of(index, PAIRED))
        return torch.stack([ends.eps, ends.x_0], 1)

    write_latents(
        path, header, map(drawn, tracked(batches, "pairs of the teacher", "batch")), model.num_pairs, name=NAME
    )
    model.to(before)
