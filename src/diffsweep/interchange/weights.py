"""Weights of a network under the names of another library's network that computes the same function.

Tensors are found by :mod:`diffsweep.layers.named_weights`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Size, Tensor, nn

from diffsweep.errors import UserError
from diffsweep.layers.named_weights import Origin, assembled

Layers = Mapping[str, tuple[str, ...]]


def refuse_others(options: Any, only: Mapping[str, Any], network: str) -> None:
    """Raise a UserError if an option of a backbone has another value than the only one that a network of diffusers has.

    Args:
        options: the options of the backbone.
        only: the values by option.
        network: what the network of diffusers is called, such as ``a U-Net``.
    """
    for key, value in only.items():
        if getattr(options, key) != value:
            raise UserError(f"backbone.{key}={getattr(options, key)}: {network} of diffusers has {value} only")


@dataclass(frozen=True)
class Converted:
    """A network of ours as one of diffusers.

    Attributes:
        kind: the name of the class in diffusers, such as ``UNet2DModel``.
        config: the arguments of its constructor.
        weights: its parameters by name.
        norm_groups: the number of groups of its norms that have another number than the constructor gives them, by the
            norms' names.
        exact_frequencies: whether its time embedding must have the frequencies 10000^(-i / (D/2)), which its
            constructor does not give it.
    """

    kind: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    norm_groups: dict[str, int] = field(default_factory=dict)
    exact_frequencies: bool = False


def their_names(name: str, layers: Layers) -> tuple[str, ...]:
    """Return the names in another network of a parameter of ours, such as ``conv_in.weight``; () for none.

    Args:
        name: the parameter's name.
        layers: the layers of the other network by the names of our layers.
    """
    layer, _, last = name.rpartition(".")
    return tuple(f"{theirs}.{last}" for theirs in layers.get(layer, ()))


def to_theirs(state: Mapping[str, Tensor], layers: Layers, shapes: Mapping[str, Size]) -> dict[str, Tensor]:
    """Return the weights of our network under the names and in the shapes of theirs.

    Args:
        state: the parameters of our network by name; those whose layer is not in ``layers`` are left out.
        layers: the layers of theirs by the names of our layers.
        shapes: the shapes of all of their parameters.

    Raises:
        ValueError: a parameter of theirs is missing, or has another number of values.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        names = their_names(name, layers)
        for part, their_name in zip(value.chunk(len(names)) if names else (), names, strict=True):
            if their_name not in shapes or shapes[their_name].numel() != part.numel():
                raise ValueError(f"{name} of shape {tuple(value.shape)} does not become {their_name}")
            found[their_name] = part.reshape(shapes[their_name]).clone()
    if missing := sorted(shapes.keys() - found.keys()):
        raise ValueError(f"no weights for {missing[0]}")
    return found


def to_ours(
    weights: Mapping[str, Tensor], layers: Layers, network: nn.Module, source: str, own: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Return the weights of another network under the names and in the shapes of ours.

    Args:
        weights: the weights of the other network by name.
        layers: its layers by the names of our layers.
        network: our network.
        source: where the weights come from, for error messages.
        own: names of parameters of ours that the other network does not have; they keep their values.

    Raises:
        UserError: a weight is missing, has another number of values, or has no counterpart in our network.
    """
    state = network.state_dict()
    kept = {name: state.pop(name) for name in own if name in state}

    def origin_of(name: str) -> Origin | None:
        names = their_names(name, layers)
        return Origin(names) if names else None

    made = assembled(state, weights, origin_of)
    if mismatch := made.mismatch(source, "config.json"):
        raise UserError(mismatch)
    return {**made.found, **kept}
