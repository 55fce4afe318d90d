"""Backbones as networks of diffusers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Size, nn

from diffsweep.backbones import DiT, UNet
from diffsweep.errors import UserError
from diffsweep.interchange import dit, unet
from diffsweep.interchange.weights import Converted, Layers, to_theirs


def converted(backbone: nn.Module, image_size: int) -> Converted:
    """Return a backbone as a network of diffusers with the same weights.

    Args:
        backbone: a U-Net or a DiT of ours.
        image_size: the side of x that it is used for.

    Raises:
        UserError: diffusers has no such network; the message names the option.
    """
    convert = CONVERTERS.get(type(backbone))
    if convert is None:
        raise UserError(f"backbone: diffusers has no {type(backbone).__name__}; it has networks like UNet and DiT")
    return convert(backbone, image_size)


def shapes_of(kind: str, config: dict[str, Any]) -> dict[str, Size]:
    """Return the shapes of the parameters of a network of diffusers by name."""
    return {name: value.shape for name, value in made(kind, config).named_parameters()}


def made(kind: str, config: dict[str, Any]) -> Any:
    """Return a new network of diffusers of a class, with initial weights; the random state is left as it is."""
    import diffusers

    with torch.random.fork_rng(devices=[]):
        return getattr(diffusers, kind)(**config).eval()


def _of_unet(network: UNet, image_size: int) -> Converted:
    kind, config = unet.kind_and_config(network, image_size)
    layers: Layers = unet.layers_of(network)
    weights = to_theirs(_plain(network), layers, shapes_of(kind, config))
    return Converted(kind, config, weights, unet.other_norm_groups(network, layers))


def _of_dit(network: DiT, image_size: int) -> Converted:
    kind, config = dit.kind_and_config(network, image_size)
    shapes = shapes_of(kind, config)
    first = {name: shape for name, shape in shapes.items() if not dit.is_a_copy(name, network)}
    weights = dit.in_every_block(to_theirs(_plain(network), dit.layers_of(network), first), network)
    return Converted(kind, config, weights, exact_frequencies=not network.options.time_endpoint)


def _plain(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().float().cpu() for name, value in network.named_parameters()}


CONVERTERS: dict[type[nn.Module], Callable[[Any, int], Converted]] = {UNet: _of_unet, DiT: _of_dit}
