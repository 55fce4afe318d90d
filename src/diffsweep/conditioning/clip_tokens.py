"""CLIP's image transformer (arXiv:2103.00020) with the hidden states of all of its tokens."""

import torch
from torch import Tensor

from diffsweep.metrics.pretrained_network import PretrainedNetwork

DEFAULTS = {"image_size": 224, "patch_size": 32, "hidden_size": 768}  # of the library, where config.json has no value


class CLIPTokens(PretrainedNetwork):
    """CLIP's image transformer, which maps images (N, C, H, W) in [-1, 1] to its last hidden states, (N, L, F)."""

    key = "concept.attention.encoder.path"
    model_class, model_types = "CLIPVisionModel", ("clip", "clip_vision_model")

    @classmethod
    def sizes(cls, path: str | None) -> tuple[int, int, int]:
        """Return the side of the network's images, the number L of tokens and their width F, from ``config.json``.

        Raises:
            ValueError: the folder has no such file.
        """
        config = cls.configuration(path)
        vision = DEFAULTS | config.get("vision_config", config)
        return vision["image_size"], 1 + (vision["image_size"] // vision["patch_size"]) ** 2, vision["hidden_size"]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.model(pixel_values=self.prepare(x)).last_hidden_state
        return tokens.float()
