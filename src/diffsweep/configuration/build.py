"""Build the parts that a configuration describes, after it is checked."""

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
    """Check a configuration and return the object that one of its groups describes.

    Args:
        cfg: a configuration from anywhere: nothing is built unchecked.
        group: such as ``sampler``.
        more: further keywords of its class, which are objects.

    Raises:
        UserError: a class is not allowed, or a value is out of its range; the message is the constructor's.
    """
    check(cfg)
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
    """Return the model with initial weights drawn under the seed of the run."""
    cfg = sized(cfg)
    torch.manual_seed(cfg.seed)
    model: Model = instantiated(cfg, "model")
    return model


def build_diffusion(cfg: DictConfig) -> DiffusionModel:
    """Return the model as :func:`build_model` does, if it draws samples.

    Raises:
        UserError: it draws none, as a classifier.
    """
    model = build_model(cfg)
    if not isinstance(model, DiffusionModel):
        raise UserError(f"model={cfg.choices.model} draws no samples; use a diffusion model, such as model=ddpm")
    return model


def device_of(cfg: DictConfig) -> torch.device:
    """Return the device to sample on: the GPU, if the machine has one and ``trainer.accelerator`` is not cpu."""
    return torch.device("cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu")


def build_data(cfg: DictConfig) -> ImageData:
    """Return the data."""
    data: ImageData = build(cfg, "dataset")
    return data


def build_metrics(cfg: DictConfig) -> GenerationMetrics | None:
    """Return the metrics, or None with ``metrics=none``."""
    return build(cfg, "metrics") if "_target_" in cfg.metrics else None


def build_likelihood(cfg: DictConfig) -> Likelihood | None:
    """Return the likelihood, or None with ``likelihood=none``."""
    return build(cfg, "likelihood") if "_target_" in cfg.likelihood else None
