"""Options of conf/ for tests of single parts, in the space of the default data, without a whole configuration."""

import functools

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf

import diffsweep.configuration.resolvers  # noqa: F401  registers the resolvers that the files use
from diffsweep.configuration.conf import CONF, files, options


def names(group):
    """Return the names of the options of a group."""
    return options(group)


def loaded(group, name):
    """Return the content of a file of conf/, merged over the files of its group that it starts from."""
    own = OmegaConf.load(CONF / group / f"{name}.yaml")
    begun = [loaded(group, start) for start in own.pop("defaults", []) if start in files(group)]
    return OmegaConf.merge(*begun, own)


@functools.cache
def described(group, name):
    """Return the class that a file of conf/ names, and its settings."""
    nodes = {"dataset": ("dataset", "digits"), "autoencoder": ("autoencoder", "identity"), "it": (group, name)}
    cfg = OmegaConf.create({node: loaded(*place) for node, place in nodes.items()})
    cfg.space = OmegaConf.load(CONF / "base.yaml").space
    settings = OmegaConf.to_container(cfg.it, resolve=True)
    return get_class(settings.pop("_target_")), settings


def option(group, name, **changes):
    """Return the object that a file of conf/ describes; a learned schedule has a narrow network."""
    torch.manual_seed(0)
    kind, settings = described(group, name)
    return kind(**{**settings, **({"width": 8} if "width" in settings else {}), **changes})
