"""Build the parts that a configuration describes, after it is checked."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from diffsweep.backbones import Execution
from diffsweep.configuration.check import check, locate
from diffsweep.configuration.sizes import fill_in_sizes, instantiated
from diffsweep.datasets import ImageData
from diffsweep.datasets.absent import AbsentData
from diffsweep.errors import UserError
from diffsweep.files import ContentError
from diffsweep.metrics import GenerationMetrics, Likelihood
from diffsweep.models import DiffusionModel, Model
from diffsweep.precision import precision_of


def build(cfg: DictConfig, group: str, **more: Any) -> Any:
    """Check a configuration and return the object that one of its groups describes.

    Args:
        cfg: the whole configuration of a command, from any source: all of it is checked before anything is built.
        group: the key of a configuration group, such as ``sampler``.
        more: further keyword arguments for the class of the group, such as objects that a configuration cannot hold.

    Raises:
        UserError: a class is not allowed, a keyword or its type is wrong, or the constructor refuses a value with a
            ValueError, whose message is kept.
    """
    check(cfg)
    return instantiated(cfg, group, **more)


def sized(cfg: DictConfig) -> DictConfig:
    """Return a checked copy of a configuration with the sizes that follow from its prediction and conditioning.

    These are ``space.out_channels``, the channels of the network's output, and the entries of ``condition``, such as
    the number of classes. A network cannot be built without them.

    Raises:
        UserError: the configuration is refused as by :func:`build`, or the prediction or the conditioning is.
    """
    check(cfg)
    cfg = cfg.copy()
    fill_in_sizes(cfg)
    return cfg


def build_model(cfg: DictConfig, start: bool = True) -> Model:
    """Return the model (a LightningModule) of a configuration, with initial weights drawn under its ``seed``.

    The seed of torch's global generator is set. A model that is adapted from a trained one (the group ``adaptation``)
    starts from that one's weights.

    Args:
        cfg: the configuration.
        start: whether a model that is adapted needs the weights of the trained one; False if it gets all of its weights
            from a checkpoint.

    Raises:
        UserError: the configuration is refused: see :func:`build`; or the trained model has other weights.
    """
    cfg = sized(cfg)
    torch.manual_seed(cfg.seed)
    model: Model = instantiated(cfg, "model")
    if (adaptation := instantiated(cfg, "adaptation")) is not None:
        if start:
            adaptation.identify()
        adaptation(model, start)
    return model


def execute(cfg: DictConfig, model: Model) -> Model:
    """Return a model whose networks are computed as the groups ``execution`` and ``feature_cache`` describe.

    The model is changed in place, for training and sampling from now on: see :class:`~diffsweep.backbones.Execution`
    and :class:`~diffsweep.backbones.FeatureCache`. So are they in the precision that ``trainer.precision`` names: see
    :meth:`~diffsweep.models.Model.compute_in`. Other models that it depends on are not.

    Raises:
        UserError: the configuration is refused: see :func:`build`.
    """
    in_its_precision(cfg, model)
    build(cfg, "execution")([model.get_submodule(name) for name in model.networks])
    if isinstance(model, DiffusionModel):
        model.feature_cache = instantiated(cfg, "feature_cache")
    return model


def products(cfg: DictConfig) -> AbstractContextManager[None]:
    """Return a context in which matrices are multiplied with ``execution.matmul_precision`` of a configuration."""
    execution: Execution = build(cfg, "execution")
    return execution.products()


def in_its_precision(cfg: DictConfig, model: Model) -> Model:
    """Return a model whose samples are drawn in the precision that ``trainer.precision`` names, changed in place."""
    model.compute_in(precision_of(cfg.trainer.precision))
    return model


def precision_in_words(cfg: DictConfig) -> str:
    """Return the precision in which samples of a configuration are drawn, with ``matmul_precision`` if it is lower."""
    words, execution = str(cfg.trainer.precision), build(cfg, "execution")
    lower = execution.matmul_precision != "highest"
    return f"{words}, matmul_precision {execution.matmul_precision}" if lower else words


def build_diffusion(cfg: DictConfig) -> DiffusionModel:
    """Return the model of a configuration as :func:`build_model` does, if it is a diffusion model.

    Raises:
        UserError: the model draws no samples, as a classifier or an autoencoder, or the configuration is refused.
    """
    model = build_model(cfg)
    if not isinstance(model, DiffusionModel):
        raise UserError(f"model={cfg.choices.model} draws no samples; use a diffusion model, such as model=ddpm")
    return model


def device_of(cfg: DictConfig) -> torch.device:
    """Return the device to sample on: the GPU, if the machine has one and ``trainer.accelerator`` is not ``cpu``."""
    return torch.device("cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu")


def build_data(cfg: DictConfig) -> ImageData:
    """Return the dataset that the group ``dataset`` of a configuration describes.

    Raises:
        UserError: the configuration is refused: see :func:`build`.
    """
    data: ImageData = build(cfg, "dataset")
    return data


def build_data_if_found(cfg: DictConfig) -> ImageData:
    """Return the dataset of a configuration, or its sizes alone if its files are not where they were.

    Raises:
        UserError: the configuration is refused: see :func:`build`.
    """
    check(cfg)
    try:
        return build_data(cfg)
    except (UserError, ContentError) as error:
        kind: Any = locate(cfg.dataset._target_, list(cfg.trust))
        settings = OmegaConf.to_container(cfg.dataset, resolve=True)
        assert isinstance(settings, dict)
        if any(settings.get(name) is None for name in ("channels", "image_size", "levels")):
            raise
        return AbsentData(kind, {str(name): value for name, value in settings.items()}, error)


def build_metrics(cfg: DictConfig) -> GenerationMetrics | None:
    """Return the metrics that compare samples with real data, such as FID; None with ``metrics=none``.

    Raises:
        UserError: the configuration is refused: see :func:`build`.
    """
    return build(cfg, "metrics") if "_target_" in cfg.metrics else None


def build_likelihood(cfg: DictConfig) -> Likelihood | None:
    """Return the measure of the likelihood of held-out data; None with ``likelihood=none``.

    It is None too if the measure is optional and the model diffuses in latents.

    Raises:
        UserError: the configuration is refused: see :func:`build`.
    """
    node = cfg.likelihood
    if "_target_" not in node or (node.get("optional", False) and not cfg.space.bounded):
        return None
    likelihood: Likelihood = build(cfg, "likelihood")
    return likelihood
