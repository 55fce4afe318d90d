"""The Inception network of FID with torch-fidelity's weights, which its package downloads by its own function.

The weights are the TensorFlow ones of 2015 too, so values agree with those of the public torchscript file within
rounding. torch-fidelity imports torchvision. The code here was tested with a stand-in of the same interface only, since
neither package ran on the machine where it was written.
"""

import hashlib
import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from diffsweep.errors import line_of
from diffsweep.metrics.resizing import to_levels

PACKAGE = "torch_fidelity"
MODULE = f"{PACKAGE}.feature_extractor_inceptionv3"
OUTPUTS = ("2048", "logits_unbiased")


def is_installed() -> bool:
    """Return whether torch-fidelity is installed; whether it can be imported is known only when it is."""
    return importlib.util.find_spec(PACKAGE) is not None


class FidelityInception(nn.Module):
    """The Inception network of torch-fidelity as a feature extractor: ``features, logits = inception(x)``.

    x is images (N, C, H, W) in [-1, 1] with C = 1 or 3. They are rounded to 256 levels, and the network resizes them as
    the original evaluators do (``legacy``). Features are (N, 2048), logits (N, 1008) without the output's bias; it has
    no spatial features, so sFID is not measured.

    Args:
        device: the device on which the network runs.

    Raises:
        ValueError: torch-fidelity or its weights cannot be loaded.
    """

    num_features = 2048

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        try:
            kind: Any = importlib.import_module(MODULE).FeatureExtractorInceptionV3
            network = kind("inception-v3-compat", list(OUTPUTS))
        except Exception as error:  # of torchvision, of the network, of the disk
            reason = line_of(error)[:200]
            raise ValueError(
                f"metrics.features.path=null: torch-fidelity cannot load its weights ({reason}); give the public "
                "torchscript file inception-2015-12-05.pt"
            ) from error
        self.network, self.device = network.to(device).eval(), device
        self.name, self.settings = "inception-2015-12-05 of torch-fidelity", {"resize_of_features": "legacy"}
        digest = hashlib.sha256()
        for name, weight in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + weight.cpu().numpy().tobytes())
        self.weights_hash = f"{digest.hexdigest()} legacy"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, 2048) and logits (N, 1008) of images (N, C, H, W) in [-1, 1], on the CPU.

        Raises:
            ValueError: x is no tensor of images with C = 1 or 3.
        """
        features, logits = self.network(to_levels(x.to(self.device)).to(torch.uint8))
        return features.float().cpu(), logits.float().cpu()
