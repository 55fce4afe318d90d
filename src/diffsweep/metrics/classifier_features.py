"""Features for FID and similar metrics from a classifier that was trained on the same dataset."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from diffsweep.layers import weights_hash


class ClassifierFeatures(nn.Module):
    """A feature extractor that returns the layer before the logits of a classifier trained on the dataset.

    It serves any dataset with labels, without a download (``metrics=classifier``). Features are of pixels, also where a
    model diffuses in latents. Values of FID, IS, precision and recall by these features can be compared between runs on
    the same data only, and with no published value. The metrics' protocol, the settings that ``metrics.json`` keeps,
    names the classifier and its weights.

    Args:
        model: returns the classifier when called: a module with ``features_and_logits(x)`` for x (N, C, H, W) in [-1,
            1].
    """

    name = "classifier-of-the-data"

    def __init__(self, model: Callable[[], Any]) -> None:
        super().__init__()
        self.model = model()
        self.weights_hash = weights_hash(self.model)

    @property
    def num_features(self) -> int:
        width: int = self.model.num_features
        return width

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, D) and logits (N, K) of images (N, C, H, W), clamped to [-1, 1] first, on the CPU."""
        features, logits = self.model.features_and_logits(x.clamp(-1, 1).to(self.model.device))
        return features.cpu(), logits.cpu()
