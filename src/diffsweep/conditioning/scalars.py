"""Conditions that are plain numbers, and conditions of several kinds."""

from collections.abc import Mapping
from dataclasses import fields

import torch
from torch import Tensor, nn

from diffsweep.conditioning.base import Conditioning
from diffsweep.datasets import Batch, Samples
from diffsweep.diffusion import Condition


class Scalars(Conditioning):
    """Numbers of a sample, such as sizes and positions, of which the network takes Fourier features (SDXL, Podell et al. 2023,
    arXiv:2307.01952, section 2.2).

    Args:
        names: of the numbers of ``batch["scalars"]``, (B, S), in their order.
        values: what is asked of samples, a list of S numbers for each, in turn; None for those of the held-out samples.
        dropout: see :class:`Conditioning`.
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
                "these data say no numbers of their samples; use a dataset that does, such as dataset=shapes"
            )
        if values is not None and (not values or any(len(row) != len(names) for row in values)):
            raise ValueError(f"conditioning.values needs {len(names)} numbers for each sample: {', '.join(names)}")
        self.values = None if values is None else torch.tensor(values)
        self.sizes = {"num_scalars": len(names)}

    def condition(self, batch: Batch) -> Condition:
        return Condition(scalars=batch["scalars"])

    def request(self, indices: Tensor, samples: Samples | None) -> Batch:
        if self.values is not None:
            return {"scalars": self.values.to(indices.device)[indices % len(self.values)]}
        if samples is None:
            raise ValueError(
                "samples are asked for the numbers of held-out ones: give conditioning.values, or a condition"
            )
        return {"scalars": samples[indices.cpu() % len(samples)]["scalars"]}


class Joint(Conditioning):
    """Several conditions at once, told or dropped together.

    Args:
        parts: by any name; each provides something else, and has no dropout of its own.
        dropout: see :class:`Conditioning`.
    """

    def __init__(self, parts: Mapping[str, Conditioning], dropout: float = 0.0) -> None:
        super().__init__(dropout)
        if not parts:
            raise ValueError("conditioning.parts is empty; use conditioning=none")
        if own := [name for name, part in parts.items() if part.dropout > 0]:
            raise ValueError(
                f"conditioning.parts.{own[0]}.dropout: parts are dropped together; set conditioning.dropout"
            )
        provided = [name for part in parts.values() for name in part.sizes]
        if twice := {name for name in provided if provided.count(name) > 1}:
            raise ValueError(f"conditioning.parts: {', '.join(sorted(twice))} is provided twice")
        if {"num_classes", "vector_dim"} <= set(provided):
            raise ValueError("conditioning.parts: the condition's vector is either a class or features, not both")
        self._parts = list(parts.values())
        self.parts = nn.ModuleDict(parts)  # for their parameters
        self.sizes = {name: size for part in parts.values() for name, size in part.sizes.items()}
        self.requires = frozenset().union(*(part.requires for part in parts.values()))

    def condition(self, batch: Batch) -> Condition:
        conditions = [part.condition(batch) for part in self._parts]
        return Condition(
            **{
                field.name: next(
                    (value for cond in conditions if (value := getattr(cond, field.name)) is not None), None
                )
                for field in fields(Condition)
            }
        )

    def request(self, indices: Tensor, samples: Samples | None) -> Batch:
        requests = [part.request(indices, samples) for part in self._parts]
        joined: Batch = {name: value for each in requests for name, value in each.items() if name != "negative"}
        if any("negative" in each for each in requests):  # what has no negative of its own stays as it is
            joined["negative"] = {**joined, **{k: v for each in requests for k, v in each.get("negative", {}).items()}}
        return joined
