r"""Scorers: how good a generated image is, as a number :math:`s(x, c)` that preferences between images are made of.

Of two images of one prompt c, that of the larger score is the winner. A score is read from the pixels by a program, or
is the log-probability of a class under a trained classifier.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.datasets import Batch, ImageData
from diffsweep.layers import weights_hash
from diffsweep.models.classifier import NoisyClassifier


class Scorer(Part, ABC):
    """A score of images, called as ``scores = scorer(x, request, data)``; subclasses define it."""

    provides = frozenset({"scores"})

    @abstractmethod
    def __call__(self, x: Tensor, request: Batch, data: ImageData) -> Tensor:
        """Return how good each image is, float64 (N,) on the CPU; each subclass defines it.

        Args:
            x: images in pixels, (N, C, H, W) in [-1, 1].
            request: what each is to show: a batch without ``x``, with ``caption`` or ``label``.
            data: the dataset, which may read images.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return all that scores depend on, as plain values by name; each subclass defines it."""


class Attribute(Scorer):
    """A number that the dataset reads from the pixels of an image, such as the radius of what it shows.

    Args:
        name: the name of the number, one of those that the dataset reads.
        sign: 1 if larger ones are better, -1 if smaller ones are.
        absent: the score of an image in which the dataset finds nothing, or that does not show what is ``required``.
        required: what an image must show of its request to have more than that: names of what
            :meth:`~diffsweep.datasets.base.ImageData.aligned` reads, such as ``colour`` and ``shape``.

    Raises:
        ValueError: ``sign`` is neither 1 nor -1; in a call, the dataset reads no such number.
    """

    def __init__(self, name: str, sign: int = 1, absent: float = -30.0, required: Sequence[str] = ()) -> None:
        if sign not in (1, -1):
            raise ValueError(f"scorer.sign is 1 (larger is better) or -1 (smaller is), not {sign}")
        self.name, self.sign, self.absent, self.required = name, sign, float(absent), tuple(required)

    def __call__(self, x: Tensor, request: Batch, data: ImageData) -> Tensor:
        numbers = data.read_numbers(x)
        if self.name not in numbers:
            known = ", ".join(data.numbers) or "none"
            raise ValueError(f"scorer.name={self.name}: the numbers that the dataset reads from images are {known}")
        score = self.sign * numbers[self.name].double().cpu()
        shown = ~score.isnan()
        right = (data.aligned(x, request) or {}) if self.required else {}
        for name in self.required:
            if name not in right:
                raise ValueError(
                    f"scorer.required has {name}, and what the dataset compares with requests is {', '.join(right)}"
                )
            shown &= right[name].cpu()
        return score.where(shown, self.absent)

    def identity(self) -> dict[str, Any]:
        return {"number": self.name, "sign": self.sign, "absent": self.absent, "required": list(self.required)}


class ClassProbability(Scorer):
    """The log-probability of a class under a trained classifier of clean images.

    Args:
        classifier: returns the classifier, a model whose ``log_prob(x, t)`` is evaluated at t = 0.
        label: the class; None: the one that is requested of each image, its ``label``.
    """

    def __init__(self, classifier: Callable[[], NoisyClassifier], label: int | None = None) -> None:
        self._load, self.label = classifier, label

    @cached_property
    def classifier(self) -> NoisyClassifier:
        """Return the classifier, loaded at the first use."""
        return self._load()

    @torch.no_grad()
    def __call__(self, x: Tensor, request: Batch, data: ImageData) -> Tensor:
        logits = self.classifier.features_and_logits(x.clamp(-1, 1).to(self.classifier.device))[1]
        if self.label is None and "label" not in request:
            raise ValueError(
                "scorer.label=null scores the class that is requested, and the request has none; give the number of one"
            )
        label = torch.full((len(x),), self.label) if self.label is not None else request["label"]
        if int(label.max()) >= logits.shape[1] or int(label.min()) < 0:
            raise ValueError(
                f"scorer.label={int(label.max())}: the classifier has the classes 0 to {logits.shape[1] - 1}"
            )
        return logits.double().log_softmax(1).cpu().gather(1, label.cpu()[:, None])[:, 0]

    def identity(self) -> dict[str, Any]:
        return {"classifier": weights_hash(self.classifier), "label": self.label}
