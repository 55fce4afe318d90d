"""Runs made of pipelines of diffusers: ``import.py weights=FOLDER`` with a folder that has ``model_index.json``."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from diffsweep import shell
from diffsweep.configuration.build import build_diffusion
from diffsweep.configuration.compose import compose
from diffsweep.configuration.preflight import preflight
from diffsweep.errors import UserError
from diffsweep.interchange.pipelines import PipelineFolder, read_pipeline
from diffsweep.interchange.reading import load_backbone
from diffsweep.models import DiffusionModel
from diffsweep.runs.claiming import claim

AUTOENCODER, TEXT_ENCODER = "autoencoder", "text_encoder"  # folders of a run that hold parts of its pipeline
OWN = ("weights", "form", "output", "hydra.run.dir")  # keys that are not of the run


def with_pipeline(directory: Path, folder: Path, words: Sequence[str]) -> tuple[DictConfig, DiffusionModel]:
    """Return the configuration and the model of a run that a pipeline of diffusers is, with the pipeline's weights.

    The run's directory gets ``config.yaml`` and copies of the pipeline's autoencoder and of its text encoder.

    Args:
        directory: the directory of the run.
        folder: the folder of the pipeline.
        words: overrides of the command line, which have precedence; they must choose a dataset that fits.

    Raises:
        UserError: the folder cannot be read or expressed, or the dataset does not fit the network.
    """
    typed = [word for word in words if _key(word) not in OWN]
    keys = {_key(word) for word in typed}
    pipeline = read_pipeline(folder, keys)
    given = [override for override in pipeline.overrides if _key(override) not in keys]
    if pipeline.autoencoder is not None:
        kept = directory / AUTOENCODER
        shutil.copytree(pipeline.autoencoder, kept, dirs_exist_ok=True)
        given = [override for override in given if _key(override) != "autoencoder.model.path"]
        given.append(shell.override("autoencoder.model.path", str(kept)))
    if pipeline.text:
        for part in pipeline.text:  # no name of a file is in both
            shutil.copytree(part, directory / TEXT_ENCODER, dirs_exist_ok=True)
        given.append(shell.override("conditioning.encoder.name", str(directory / TEXT_ENCODER)))
    cfg = compose("train", [*given, *typed, shell.override("hydra.run.dir", str(directory))])
    _check_sizes(cfg, pipeline, folder)
    preflight(cfg)
    model = build_diffusion(cfg)
    load_backbone(model.denoiser.backbone, pipeline.network, pipeline.null_class)
    claim(cfg)
    return cfg, model


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _check_sizes(cfg: DictConfig, pipeline: PipelineFolder, folder: Path) -> None:
    """Raise a UserError unless the dataset gives x and classes of the sizes that the network was made for."""
    read, data = pipeline.described, cfg.choices.dataset
    if cfg.space.channels != read.channels:
        raise UserError(
            f"{folder} has {read.channels} channels, and dataset={data} gives {cfg.space.channels}; choose the dataset "
            "that it was trained on, dataset=..."
        )
    if read.image_size is not None and cfg.space.image_size != read.image_size:
        side = read.image_size * cfg.dataset.image_size // cfg.space.image_size
        raise UserError(
            f"{folder} is for images of {side} pixels, and those of dataset={data} have {cfg.dataset.image_size}; add "
            f"dataset.image_size={side}, or choose another dataset"
        )
    classes = cfg.dataset.get("num_classes")
    if read.classes is not None and classes != read.classes:
        raise UserError(
            f"{folder} has {read.classes} classes, and dataset={data} has {classes}; choose another dataset"
        )
