"""Compared samples of a model that learns from preferences, drawn or read once, and kept in files."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffsweep.configuration.build import device_of
from diffsweep.configuration.stage_nodes import portable, saved_config
from diffsweep.datasets import ImageData, StoredComparisons, open_latents, write_latents
from diffsweep.datasets.pairs import held_out
from diffsweep.errors import UserError
from diffsweep.files import make_once
from diffsweep.layers import weights_hash
from diffsweep.metrics import identify
from diffsweep.models import Model, PreferenceModel
from diffsweep.models.comparisons import ComparedRows
from diffsweep.progress import ProgressMeter

SAMPLES, SCORES = "compared", "scores"


def keep_comparisons(cfg: DictConfig, model: Model, data: ImageData) -> None:
    """Let the data loaders yield compared samples in place of data, if the model learns from preferences.

    They are drawn and compared, or read, first, with progress, if no file has them yet. A file is identified by a hash
    of all that its content depends on: of drawn samples the weights of the base, its guidance, the sampler, the scorer
    and the prompts; of images in files these files.

    Args:
        cfg: the run's configuration.
        model: the model.
        data: the dataset, whose training and held-out loaders are changed.

    Raises:
        UserError: samples cannot be compared, or a file has other content than its name promises.
    """
    if not isinstance(model, PreferenceModel):
        return
    header = identity(cfg, model, data)
    folder = Path(cfg.paths.cache_dir) / f"comparisons-{identify(header)}"
    scores_path = folder / f"{SCORES}.safetensors"
    try:
        make_once(scores_path, partial(_write, scores_path, header, model, data, device_of(cfg)))
        compared = open_latents(folder / f"{SAMPLES}.safetensors", header, SAMPLES)
        numbers = open_latents(scores_path, header, SCORES)
    except ValueError as error:  # of a scorer, or of files with other content
        raise UserError(str(error)) from error
    table = (compared, numbers[:, :-1].float(), numbers[:, -1].long(), model.comparisons.annotations(data))
    end = len(compared)
    first = end - held_out(end)
    data.replace_samples("train", StoredComparisons(*table, first=0, end=first))
    data.replace_samples("val", StoredComparisons(*table, first=first, end=end))


def identity(cfg: DictConfig, model: PreferenceModel, data: ImageData) -> dict[str, Any]:
    """Return all that the compared samples of a model depend on, by name: a hash identifies their files by it.

    Args:
        cfg: the run's configuration.
        model: the model, with its source of comparisons and its scorer.
        data: the dataset whose annotations are the prompts.
    """
    comparisons = model.comparisons
    source: dict[str, Any] = {
        "source": type(comparisons).__name__,
        "size": list(model.autoencoder.shape),
        **comparisons.identity(data),
    }
    if "scores" not in comparisons.requires:
        return source | {"space": weights_hash(model.autoencoder)}
    return source | {
        "base": weights_hash(model.reference),
        "guidance": guidance_of_base(cfg),
        "scorer": {} if model.scorer is None else {"name": type(model.scorer).__name__, **model.scorer.identity()},
    }


def guidance_of_base(cfg: DictConfig) -> Any:
    """Return the settings of the guidance with which the base of a run draws samples, without directories."""
    guidance = saved_config(Path(cfg.adaptation.run), tuple(cfg.trust)).guidance
    return portable(OmegaConf.to_container(guidance, resolve=True))


def _write(path: Path, header: dict[str, Any], model: PreferenceModel, data: ImageData, device: torch.device) -> None:
    """Write compared samples to one file and their scores to another, which is whole if the first one is."""
    comparisons, before = model.comparisons, model.device
    model.to(device)
    captions = comparisons.annotations(data)
    numbers: list[Tensor] = []

    def samples(progress: ProgressMeter) -> Iterator[Tensor]:
        for rows in _rows(model, data, captions):
            numbers.append(torch.cat([rows.score, rows.prompt[:, None].double()], 1))
            progress.update(len(rows.prompt))
            yield rows.compared

    with ProgressMeter("compared samples", comparisons.count, "row") as progress:
        write_latents(
            path.parent / f"{SAMPLES}.safetensors", header, samples(progress), comparisons.count, name=SAMPLES
        )
    write_latents(path, header, iter(numbers), comparisons.count, name=SCORES)
    model.to(before)


def _rows(model: PreferenceModel, data: ImageData, captions: Any) -> Iterator[ComparedRows]:
    """Yield compared samples, after a check that the model takes the texts that they come with."""
    for rows in model.comparisons.rows(model.reference, data, model.scorer):
        try:
            model.condition_of(captions.annotations(rows.prompt))
        except ValueError as error:
            raise UserError(f"comparisons={type(model.comparisons).__name__}: {error}") from error
        yield rows
