"""Builds what a configuration describes, after it is checked."""

from typing import Any

import torch
from omegaconf import DictConfig

from diffsweep.configuration.check import check
from diffsweep.configuration.sizes import fill_in_sizes, instantiated
from diffsweep.datasets import ImageData
from diffsweep.errors import UserError
from diffsweep.metrics import GenerationMetrics, Likelihood
from diffsweep.models import DiffusionModel, Model


def build(cfg: DictConfig, group: str, **more: Any) -> Any:
    """The object that a group of a configuration describes; ``more`` are keywords that are objects.

    Raises:
        UserError: a value is out of its range; the message is the constructor's.
    """
    check(cfg)  # here, so that nothing is built unchecked, wherever the configuration came from
    return instantiated(cfg, group, **more)


def sized(cfg: DictConfig) -> DictConfig:
    """Return a checked copy of a configuration with the sizes of the network's output and of the condition.

    Raises:
        UserError: as :func:`build`.
    """
    check(cfg)
    cfg = cfg.copy()
    fill_in_sizes(cfg)
    return cfg


def build_model(cfg: DictConfig) -> Model:
    """The model, its weights drawn under the run's seed."""
    cfg = sized(cfg)
    torch.manual_seed(cfg.seed)
    model: Model = instantiated(cfg, "model")
    return model


def build_diffusion(cfg: DictConfig) -> DiffusionModel:
    """As :func:`build_model`, where samples are wanted.

    Raises:
        UserError: it is a model that draws none.
    """
    model = build_model(cfg)
    if not isinstance(model, DiffusionModel):
        raise UserError(f"model={cfg.choices.model} draws no samples; use a diffusion model, such as model=ddpm")
    return model


def device_of(cfg: DictConfig) -> torch.device:
    """Where a model is sampled and timed: on the GPU where there is one and it is wanted."""
    return torch.device("cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu")


def build_data(cfg: DictConfig) -> ImageData:
    data: ImageData = build(cfg, "dataset")
    return data


def build_metrics(cfg: DictConfig) -> GenerationMetrics | None:
    """The metrics, or None with ``metrics=none``."""
    return build(cfg, "metrics") if "_target_" in cfg.metrics else None


def build_likelihood(cfg: DictConfig) -> Likelihood | None:
    """The likelihood, or None with ``likelihood=none``."""
    return build(cfg, "likelihood") if "_target_" in cfg.likelihood else None
