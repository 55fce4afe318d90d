"""Random augmentation of training images, each drawn from the image's position in the training run."""

import torch
from torch import Tensor
from torch.nn import functional

from diffsweep.diffusion import Noise, Stream


class RandomShift:
    """An augmentation that shifts each image by a random whole number of pixels, vertically and horizontally.

    Both offsets are uniform on {-pixels, ..., pixels} and independent. The border that becomes free is filled with
    ``background``.

    Shifted images have another distribution than the data. A classifier of clean images may train on them if the class
    does not depend on the place. A classifier of noisy images p(y | x_t) should not: it would learn the posterior of
    the shifted images, which at large noise is far from that of the data.

    Args:
        pixels: the largest shift; 0 shifts nothing.
        background: the value of the filled border in images in [-1, 1]; black by default.

    Raises:
        ValueError: ``pixels`` is negative.
    """

    def __init__(self, pixels: int = 1, background: float = -1.0) -> None:
        if pixels < 0:
            raise ValueError(f"augmentation.pixels must be at least 0, not {pixels}")
        self.pixels, self.background = pixels, background

    def __call__(self, x: Tensor, noise: Noise) -> Tensor:
        """Return the images x (B, C, H, W), each shifted by offsets of its own, of the same shape.

        Args:
            x: the images.
            noise: draws the offsets from a seed and the position of each sample in the training run, so that a resumed
                run draws the same ones.
        """
        if self.pixels == 0:
            return x
        height, width = x.shape[2:]
        choices = 2 * self.pixels + 1
        offset = (noise.uniform(2, stream=Stream.AUGMENTATION) * choices).long()  # (B, 2), from 0 to 2 pixels
        padded = functional.pad(x, [self.pixels] * 4, value=self.background)
        rows = offset[:, :1] + torch.arange(height, device=x.device)  # (B, H)
        columns = offset[:, 1:] + torch.arange(width, device=x.device)  # (B, W)
        sample = torch.arange(len(x), device=x.device)
        moved = padded.movedim(1, -1)[sample[:, None, None], rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
        return moved.movedim(-1, 1)
