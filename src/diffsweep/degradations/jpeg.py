"""Images compressed as JPEG, for the removal of its artefacts."""

import io

import numpy as np
import torch
from torch import Tensor

from diffsweep.degradations.base import Degradation, Range, bounds
from diffsweep.diffusion import Noise


class Jpeg(Degradation):
    """A degradation by compression as JPEG, with Pillow; images of one or three channels.

    Args:
        quality: 1 (worst) to 95; or a range [low, high] to draw it from for each sample, as whole numbers. Palette
            trains on 5 to 30 (arXiv:2111.05826).

    Raises:
        ValueError: a ``quality`` outside 1 to 95.
    """

    def __init__(self, quality: Range = (5, 30)) -> None:
        self.low, self.high = bounds("quality", quality, 1, 95)
        self.random = self.low < self.high

    def check(self, channels: int, image_size: int) -> None:
        if channels not in (1, 3):
            raise ValueError(f"degradation: JPEG has 1 or 3 channels, and images have {channels}")

    def image(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the images as they are after compression and decoding, in [-1, 1]; they have no gradient."""
        qualities = [int(self.low)] * len(x)
        if self.random:
            span = int(self.high) - int(self.low) + 1
            qualities = (int(self.low) + (self.uniform(noise, 1)[:, 0] * span).long()).tolist()
        pixels = ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).cpu().numpy()
        decoded = np.stack([_compressed(image, quality) for image, quality in zip(pixels, qualities, strict=True)])
        return (torch.from_numpy(decoded).to(x) / 127.5 - 1).movedim(-1, 1).contiguous()


def _compressed(image: "np.ndarray", quality: int) -> "np.ndarray":
    """Return an image (H, W, C) of uint8, with C = 1 or 3, after compression as JPEG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(image.shape)
