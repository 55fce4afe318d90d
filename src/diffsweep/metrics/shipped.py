"""Classifiers whose weights are in the repository."""

import hashlib
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

Kind = TypeVar("Kind", bound="ShippedClassifier")


class ShippedClassifier(nn.Module):
    """A classifier whose features make numbers mean the same everywhere: ``features, logits = classifier(x)``.

    Attributes:
        weights: the file of its weights.
        weights_hash: of that file, once they are loaded.
        levels: grey levels of the data; inputs are rounded to them, as saving an image would.
    """

    weights: ClassVar[Path]
    weights_hash = "untrained"
    levels: int

    @classmethod
    def trained(cls: type[Kind]) -> Kind:
        """Return the classifier with the repository's weights, in evaluation mode."""
        classifier = cls()
        classifier.load_state_dict(torch.load(cls.weights, weights_only=True))
        classifier.weights_hash = hashlib.sha256(cls.weights.read_bytes()).hexdigest()
        return classifier.eval().requires_grad_(False)

    def rounded(self, x: Tensor) -> Tensor:
        """Return x, within [-1, 1] and at the nearest of its grey levels."""
        scale = (self.levels - 1) / 2
        return ((x.clamp(-1, 1) + 1) * scale).round() / scale - 1
