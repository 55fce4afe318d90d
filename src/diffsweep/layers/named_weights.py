"""The weights of a network made of the weights of another one, which has them under other names.

A parameter of ours is one tensor of theirs, or several side by side: ``to_qkv`` is the concatenation of ``to_q``,
``to_k`` and ``to_v`` along the first axis. Linear maps and 1 x 1 convolutions are the same numbers in other shapes.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Convert = Callable[[Sequence[Tensor]], Tensor]


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Return the concatenation of tensors along their first axis."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


@dataclass(frozen=True)
class Origin:
    """A rule how a layer or a parameter of our network is made of those of another network that computes the same.

    Attributes:
        names: the layers or parameters of the other network, in the order in which ``convert`` takes them.
        convert: makes the value of a parameter from the tensors of these names; the result is reshaped to ours.
    """

    names: tuple[str, ...]
    convert: Convert = joined


class Misfit(NamedTuple):
    """A parameter of our network that has another number of values than the tensors that it would be made of.

    Attributes:
        name: the name of the parameter.
        expected: the shape of the parameter.
        names: the names of the tensors of the other network.
        shapes: the shapes of these tensors.
    """

    name: str
    expected: tuple[int, ...]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


class Assembled(NamedTuple):
    """The weights of a network that could be made, and what did not fit.

    Attributes:
        found: the weights by our names, in our shapes and types.
        lacking: names of tensors that are missing, and ``a counterpart of NAME`` for parameters without an origin.
        unused: names of tensors that no parameter is made of.
        misfits: parameters of another number of values.
    """

    found: dict[str, Tensor]
    lacking: list[str]
    unused: list[str]
    misfits: list[Misfit]

    def mismatch(self, source: str, config: str) -> str | None:
        """Return the first thing that does not fit as a sentence with the names of the tensors; None if all fit.

        Args:
            source: the file of the tensors, with which the sentence begins.
            config: the file that describes the network.
        """
        if self.lacking:
            return f"{source} has no {' or no '.join(self.lacking[:3])}"
        for name, expected, names, shapes in self.misfits:
            return f"{source}: {' '.join(names)} has the shape {shapes[0]}, but by {config} {name} is {expected}"
        return f"{source} has {', '.join(self.unused[:3])}, which {config} does not describe" if self.unused else None


def assembled(
    state: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    origin_of: Callable[[str], Origin | None],
    own: Container[str] = (),
) -> Assembled:
    """Return the weights of our network, made of the tensors of another, and what is missing, unused or misfits.

    Args:
        state: the parameters and buffers of our network, for their names, shapes and types.
        weights: the tensors of the other network.
        origin_of: maps the name of a parameter of ours to what it is made of; None for nothing.
        own: names of parameters and buffers of ours that are left out if they have no origin, instead of reported.
    """
    found: dict[str, Tensor] = {}
    lacking: list[str] = []
    misfits: list[Misfit] = []
    used: set[str] = set()
    for name, value in state.items():
        origin = origin_of(name)
        if origin is None:
            lacking += [] if name in own else [f"a counterpart of {name}"]
            continue
        used.update(origin.names)
        if absent := [key for key in origin.names if key not in weights]:
            lacking += absent
            continue
        parts = [weights[key].detach().float() for key in origin.names]
        converted = origin.convert(parts)
        if converted.numel() != value.numel():
            shapes = tuple(tuple(part.shape) for part in parts)
            misfits.append(Misfit(name, tuple(value.shape), origin.names, shapes))
        else:
            found[name] = converted.reshape(value.shape).to(value.dtype).contiguous()
    return Assembled(found, lacking, sorted(weights.keys() - used), misfits)


def of_layer(name: str, layers: Mapping[str, Origin]) -> Origin | None:
    """Return what a parameter is made of: its own entry, or the parameter of the same name in its layer's entry.

    Args:
        name: the name of the parameter, such as ``conv_in.weight``.
        layers: origins by the names of parameters or of their layers.
    """
    if name in layers:
        return layers[name]
    layer, _, last = name.rpartition(".")
    origin = layers.get(layer)
    return None if origin is None else Origin(tuple(f"{key}.{last}" for key in origin.names), origin.convert)
