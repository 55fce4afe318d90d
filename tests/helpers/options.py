"""Options of conf/ for tests of single parts, in the space of the default data, without composing a whole run."""

import functools
from pathlib import Path

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf

import diffsweep.configuration.resolvers  # noqa: F401  for what the files interpolate

CONF = Path(__file__).parents[2] / "conf"


def names(group):
    """The options of a group."""
    return [path.stem for path in sorted((CONF / group).glob("*.yaml"))]


@functools.cache
def described(group, name):
    """The class that a file of conf names, and its settings."""
    nodes = {"dataset": "dataset/digits", "autoencoder": "autoencoder/identity", "it": f"{group}/{name}"}
    cfg = OmegaConf.create({node: OmegaConf.load(CONF / f"{file}.yaml") for node, file in nodes.items()})
    cfg.space = OmegaConf.load(CONF / "base.yaml").space
    settings = OmegaConf.to_container(cfg.it, resolve=True)
    return get_class(settings.pop("_target_")), settings


def option(group, name, **changes):
    """What a file of conf describes; the learned schedule with a narrow network."""
    torch.manual_seed(0)
    kind, settings = described(group, name)
    return kind(**{**settings, **({"width": 8} if "width" in settings else {}), **changes})
