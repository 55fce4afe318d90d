"""The digits classifier whose features make FID on digits mean the same everywhere. Its weights are in the repository.

Train it again with ``python -m diffsweep.metrics.train_digits_classifier``.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("digits_classifier.pt")


class DigitsClassifier(nn.Module):
    """A small convolutional network on 8x8 digits: ``features, logits = classifier(x)``.

    Attributes:
        num_features: 64, the width of the layer before the logits.
        levels: grey levels of the data; inputs are rounded to them, as saving an image would.
    """

    name = "digits-classifier"
    num_features = 64
    num_classes = 10
    levels = 17
    weights_hash = "untrained"

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(24, 32, 3, padding=1),
            nn.SiLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(32 * 4 * 4, self.num_features),
            nn.SiLU(),
        )
        self.head = nn.Linear(self.num_features, self.num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, 64) and logits (N, 10) of digits in [-1, 1], (N, 1, 8, 8)."""
        scale = (self.levels - 1) / 2
        features = self.body(((x.clamp(-1, 1) + 1) * scale).round() / scale - 1)
        return features, self.head(features)


def load_digits_classifier() -> DigitsClassifier:
    """The classifier with the repository's weights, in evaluation mode."""
    classifier = DigitsClassifier()
    classifier.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    classifier.weights_hash = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    return classifier.eval().requires_grad_(False)
