"""The base class of classifiers whose trained weights are in the repository."""

import hashlib
from pathlib import Path
from typing import ClassVar, TypeVar

from torch import Tensor, nn

from diffsweep.tensor_files import read_tensors

Kind = TypeVar("Kind", bound="ShippedClassifier")


class ShippedClassifier(nn.Module):
    """A base class for classifiers whose trained weights are in the repository, so that metrics by them are comparable.

    Subclasses define the network, which is called as ``features, logits = classifier(x)``, and the class attributes
    ``weights`` and ``levels``. A classifier has random weights unless it comes from :meth:`trained`.

    Attributes:
        weights: the file of its weights.
        weights_hash: the SHA-256 of that file, once it is loaded.
        levels: number of grey levels of the data, to which inputs are rounded, as saving an image would.
    """

    weights: ClassVar[Path]
    weights_hash = "untrained"
    levels: int

    @classmethod
    def trained(cls: type[Kind]) -> Kind:
        """Return a classifier with the weights of the repository, in evaluation mode and without gradients."""
        classifier = cls()
        classifier.load_state_dict(read_tensors(cls.weights))
        classifier.weights_hash = hashlib.sha256(cls.weights.read_bytes()).hexdigest()
        return classifier.eval().requires_grad_(False)

    def rounded(self, x: Tensor) -> Tensor:
        """Return x clamped to [-1, 1] and rounded to the nearest of the data's grey levels."""
        scale = (self.levels - 1) / 2
        return ((x.clamp(-1, 1) + 1) * scale).round() / scale - 1
