"""Conditioning on plain numbers s of a sample, p(x_0 | s), and on several conditions at once, p(x_0 | c_1, c_2, ...).

The network takes Fourier features of each number, (cos(w_k s), sin(w_k s)) at frequencies w_k, and adds an embedding of
them to that of the time. Several conditions fill different parts of one Condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffsweep.conditioning.base import Conditioning
from diffsweep.diffusion import Condition, Noise

if TYPE_CHECKING:  # it imports Lightning, which takes seconds
    from diffsweep.datasets import Batch, Samples


class Scalars(Conditioning):
    """A conditioning on S numbers of a sample, such as sizes and positions, as SDXL is on sizes and crops.

    The condition's ``scalars`` are ``batch["scalars"]``, float (B, S); the backbone takes Fourier features of them
    (Podell et al. 2023, arXiv:2307.01952, section 2.2).

    Args:
        names: the names of the S numbers, in their order; None, which is refused, if the data have no such numbers.
        values: the numbers to draw samples for: a list of rows of S numbers, one row for each sample, in turn. None for
            the numbers of held-out samples.
        dropout: the probability that a training sample has the null condition in place of its numbers.

    Raises:
        ValueError: no names, or rows of ``values`` that have not S numbers; in ``request``, neither ``values`` nor
            data.
    """

    def __init__(
        self,
        names: list[str] | None,
        values: list[list[float]] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dropout)
        if not names:
            raise ValueError(
                "these data have no numbers for their samples; use a dataset that has them, such as dataset=shapes"
            )
        if values is not None and (not values or any(len(row) != len(names) for row in values)):
            raise ValueError(f"conditioning.values needs {len(names)} numbers for each sample: {', '.join(names)}")
        self.values = None if values is None else torch.tensor(values)
        self.names, self.sizes = names, {"num_scalars": len(names)}

    def condition(self, batch: Batch) -> Condition:
        return Condition(scalars=batch["scalars"])

    def request(self, indices: Tensor, samples: Samples | None) -> Batch:
        if self.values is not None:
            return {"scalars": self.values.to(indices.device)[indices % len(self.values)]}
        if samples is None:
            raise ValueError(
                "samples are drawn for the numbers of held-out ones: give conditioning.values, the data, or a condition"
            )
        return {"scalars": samples[indices.cpu() % len(samples)]["scalars"]}

    def described(self, request: Batch) -> list[str]:
        rows = request["scalars"].tolist()
        return [" ".join(f"{name} {value:.3g}" for name, value in zip(self.names, row, strict=True)) for row in rows]


class Joint(Conditioning):
    """A conditioning on several conditions at once, such as the class and numbers, which are dropped together.

    Args:
        parts: the conditionings, by names of your choice. Each fills another part of the Condition, and none has
            dropout of its own.
        dropout: the probability that a training sample has the null condition in place of all its conditions.

    Raises:
        ValueError: no parts, one with dropout, or two that fill the same part of the Condition.
    """

    def __init__(self, parts: Mapping[str, Conditioning], dropout: float = 0.0) -> None:
        super().__init__(dropout)
        if not parts:
            raise ValueError("conditioning.parts is empty; use conditioning=none")
        if own := [name for name, part in parts.items() if part.dropout > 0]:
            raise ValueError(
                f"conditioning.parts.{own[0]}.dropout must be 0: parts are dropped together; set conditioning.dropout"
            )
        provided = [name for part in parts.values() for name in part.sizes]
        if twice := {name for name in provided if provided.count(name) > 1}:
            raise ValueError(
                f"conditioning.parts: two of them provide {', '.join(sorted(twice))}; leave one of them out"
            )
        if {"num_classes", "vector_dim"} <= set(provided):
            raise ValueError(
                "conditioning.parts: the condition's vector is either a class or features; leave out one of these parts"
            )
        self._parts = list(parts.values())
        self.parts = nn.ModuleDict(parts)  # for their parameters
        self.sizes = {name: size for part in parts.values() for name, size in part.sizes.items()}
        self.requires_pixels = any(part.requires_pixels for part in parts.values())
        self.requires = frozenset().union(*(part.requires for part in parts.values()))

    def condition(self, batch: Batch) -> Condition:
        joined: dict[str, Any] = {}
        for cond in (part.condition(batch) for part in self._parts):
            for field in fields(Condition):
                value = getattr(cond, field.name, field.default)
                if value is not field.default and field.name not in joined:
                    joined[field.name] = value
        return Condition(**joined)

    def prepared(self, batch: Batch, noise: Noise | None = None) -> Batch:
        for part in self._parts:
            batch = part.prepared(batch, noise)
        return batch

    def request(self, indices: Tensor, samples: Samples | None) -> Batch:
        requests = [part.request(indices, samples) for part in self._parts]
        joined: Batch = {name: value for each in requests for name, value in each.items() if name != "negative"}
        if any("negative" in each for each in requests):  # a part without a negative condition keeps its own
            joined["negative"] = {**joined, **{k: v for each in requests for k, v in each.get("negative", {}).items()}}
        return joined

    def described(self, request: Batch) -> list[str]:
        found = [words for part in self._parts if (words := part.described(request))]
        return [", ".join(row) for row in zip(*found, strict=True)]
