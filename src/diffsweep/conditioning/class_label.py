"""Conditioning on the class: c is the id y of the sample's class, 0 to K - 1, and the network models p(x_0 | y).

The id stays an integer in the condition. A backbone embeds it with a table of K vectors, which it adds to the time
embedding.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffsweep.conditioning.base import Conditioning
from diffsweep.diffusion import Condition

if TYPE_CHECKING:  # it imports Lightning, which takes seconds
    from diffsweep.datasets import Batch, Samples


class ClassLabel(Conditioning):
    """A conditioning on the class of a sample: ``vector`` of the condition is its id, int64 (B,).

    The id is read from ``batch["label"]``, and the backbone embeds it.

    Args:
        num_classes: K, the number of classes; ids are 0 to K - 1. None, which is refused, if the data have no classes.
        class_names: names of the classes in the order of their ids, which ``labels`` and ``negative`` may use; None for
            ids alone.
        labels: the classes to draw samples of, ids or names; sample i has ``labels[i % len(labels)]``. None for all K
            in turn.
        negative: the id or name of a class that guidance leads away from, in place of the null condition.
        dropout: the probability that a training sample has the null condition in place of its class.

    Raises:
        ValueError: no classes, another number of ``class_names`` than of classes, empty ``labels``, or an unknown
            class.
    """

    def __init__(
        self,
        num_classes: int | None,
        class_names: Sequence[str] | None = None,
        labels: Sequence[int | str] | None = None,
        negative: int | str | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dropout)
        if num_classes is None:
            raise ValueError(
                "these data have no classes; use a dataset with labels, or conditioning=none guidance=none"
            )
        self.num_classes, self.sizes = num_classes, {"num_classes": num_classes}
        self.class_names = None if class_names is None else list(class_names)
        if self.class_names is not None and len(self.class_names) != num_classes:
            raise ValueError(f"conditioning.class_names has {len(self.class_names)} names for {num_classes} classes")
        if labels is not None and not labels:
            raise ValueError("conditioning.labels is empty; give classes, or null for all of them in turn")
        every = range(num_classes) if labels is None else labels
        self.labels = torch.tensor([self.class_id("labels", label) for label in every])
        self.negative = None if negative is None else self.class_id("negative", negative)

    def class_id(self, key: str, label: int | str) -> int:
        """Return the id of a class that is given by its id or its name.

        Args:
            key: the setting that has the class, for the error message: ``labels`` or ``negative``.
            label: the id or the name.

        Raises:
            ValueError: the data have no class of this id or name.
        """
        if isinstance(label, int):
            if not 0 <= label < self.num_classes:
                raise ValueError(f"conditioning.{key}: no class {label}; ids are 0 to {self.num_classes - 1}")
            return label
        names = self.class_names or []
        if label in names:
            return names.index(label)
        near = difflib.get_close_matches(label, names, n=1, cutoff=0.5)
        known = f"did you mean {near[0]}? " if near else ""
        known += f"classes are {', '.join(names)}" if names else f"give an id, 0 to {self.num_classes - 1}"
        raise ValueError(f"conditioning.{key}: no class named {label}; {known}")

    def condition(self, batch: Batch) -> Condition:
        return Condition(vector=batch["label"])

    def request(self, indices: Tensor, samples: Samples | None) -> Batch:
        request: Batch = {"label": self.labels.to(indices.device)[indices % len(self.labels)]}
        if self.negative is not None:
            request["negative"] = {"label": torch.full_like(indices, self.negative)}
        return request

    def requested(self, values: Sequence[Any]) -> Batch:
        return {"label": torch.tensor([self.class_id("labels", value) for value in values])}

    def described(self, request: Batch) -> list[str]:
        names = self.class_names or [f"class {label}" for label in range(self.num_classes)]
        return [names[label] for label in request["label"].tolist()]
