"""A fixed classifier of handwritten digits, whose features define FID, IS and KID of ``metrics=digits``.

Its weights are in the repository, so that these values can be compared between machines and users. The command
``python -m diffsweep.metrics.train_digits_classifier`` trains it again.
"""

from pathlib import Path

from torch import Tensor, nn

from diffsweep.metrics.shipped import ShippedClassifier

WEIGHTS = Path(__file__).with_name("digits_classifier.pt")


class DigitsClassifier(ShippedClassifier):
    """A small convolutional classifier of 8x8 digits, called as ``features, logits = classifier(x)``.

    x is (N, 1, 8, 8) in [-1, 1], features are (N, 64), and logits of the classes 0 to 9 are (N, 10). Its weights are
    random until :meth:`trained` loads those of the repository.

    Attributes:
        num_features: 64, the width of the layer before the logits.
    """

    name = "digits-classifier"
    num_features = 64
    num_classes = 10
    levels = 17
    weights = WEIGHTS

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
        """Return features (N, 64) and logits (N, 10) of digits (N, 1, 8, 8) in [-1, 1], rounded to 17 levels first."""
        features = self.body(self.rounded(x))
        return features, self.head(features)


def load_digits_classifier() -> DigitsClassifier:
    """Return the classifier of 8x8 digits with the trained weights of the repository, in evaluation mode."""
    return DigitsClassifier.trained()
