"""Augmentation of training pictures, keyed by their positions in the stream."""

import torch
from torch import Tensor
from torch.nn import functional

from diffsweep.diffusion import Noise, Stream


class RandomShift:
    """Each picture moved by up to so many pixels up or down, and left or right, the background moved in.

    Moved pictures are other data. For a classifier of clean data they are more of it, where a class is no matter of place; a noisy
    one then learns p(y | x_t) of the moved data, which is far from that of the data where noise is large.

    Args:
        pixels: the most that it is moved; 0 for not at all.
        background: the value that is moved in; that of black by default.
    """

    def __init__(self, pixels: int = 1, background: float = -1.0) -> None:
        if pixels < 0:
            raise ValueError(f"augmentation.pixels must be at least 0, not {pixels}")
        self.pixels, self.background = pixels, background

    def __call__(self, x: Tensor, noise: Noise) -> Tensor:
        """x (B, C, H, W); ``noise`` is that of its positions."""
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
