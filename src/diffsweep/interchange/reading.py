"""Weights of networks of diffusers in our networks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffsweep.backbones import DiT, UNet
from diffsweep.errors import UserError
from diffsweep.interchange import dit, unet
from diffsweep.interchange.folders import CONFIG, read_json, read_weights
from diffsweep.interchange.options import Described, described
from diffsweep.interchange.weights import to_ours

CLASSES = "embed_condition.classes.weight"
FIRST_LINEAR = "time_embedding.linear_1.weight"


def load_backbone(backbone: nn.Module, folder: Path, null_class: int | None = None) -> Described:
    """Load the weights of a network of diffusers into a backbone of ours, and return what the network is.

    The null class and the null token, which most U-Nets of diffusers lack, become zero.

    Args:
        backbone: a backbone with the options of :func:`~diffsweep.interchange.options.described`.
        folder: the folder of the network, such as ``unet`` in a pipeline.
        null_class: the class that means none, if it is among the network's classes, as their last.

    Raises:
        UserError: the folder cannot be read, or its weights do not fit the backbone.
    """
    read = described(read_json(folder / CONFIG), str(folder / CONFIG))
    reader = READERS.get(type(backbone))
    if reader is None:
        raise UserError(f"{folder}: its weights belong to backbone={read.option}, not to a {type(backbone).__name__}")
    state = reader(backbone, read_weights(folder), read, str(folder), null_class)
    backbone.load_state_dict(state)
    return read


def _unet(
    network: UNet, weights: dict[str, Tensor], read: Described, source: str, null_class: int | None
) -> dict[str, Tensor]:
    if read.sines_first:  # ours has the cosines first
        sines, cosines = weights[FIRST_LINEAR].chunk(2, dim=1)
        weights[FIRST_LINEAR] = torch.cat([cosines, sines], dim=1)
    embedding = weights.get("class_embedding.weight")
    if embedding is not None and null_class is None:
        weights["class_embedding.weight"] = torch.cat([embedding, torch.zeros_like(embedding[:1])])
    if network.context is not None:
        nn.init.zeros_(network.context.null)
    return to_ours(weights, unet.layers_of(network), network, source, unet.OWN)


def _dit(
    network: DiT, weights: dict[str, Tensor], read: Described, source: str, null_class: int | None
) -> dict[str, Tensor]:
    first = dit.IN_BLOCKS.format(0)
    for name in [name for name in weights if ".norm1.emb." in name and not name.startswith(first)]:
        part = name.partition(".norm1.emb.")[2]
        if not torch.equal(weights.pop(name), weights[first + part]):
            raise UserError(f"{source}: {part} differs between blocks, which no option expresses")
    weights.pop("pos_embed.pos_embed", None)  # it follows from the sizes
    if network.options.num_classes is None:
        table = weights.pop(f"{first}class_embedder.embedding_table.weight")
        name = f"{first}timestep_embedder.linear_2.bias"
        weights[name] = weights[name] + table[0]  # the class of every sample
    return to_ours(weights, dit.layers_of(network), network, source)


Reader = Callable[[Any, dict[str, Tensor], Described, str, int | None], dict[str, Tensor]]
READERS: dict[type[nn.Module], Reader] = {UNet: _unet, DiT: _dit}
