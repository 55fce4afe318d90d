"""Pixels: the autoencoder of pixel diffusion."""

from torch import Tensor, nn


class Identity(nn.Module):
    """Encodes and decodes nothing; diffusion happens in pixels, in [-1, 1].

    Args:
        channels, image_size: shape (channels, image_size, image_size) of the space.
    """

    bounded = True  # values lie in [-1, 1]

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__()
        self.shape = (channels, image_size, image_size)

    def encode(self, x: Tensor) -> Tensor:
        """Pixels to the space, (B, C, H, W)."""
        return x

    def decode(self, z: Tensor) -> Tensor:
        """The space to pixels, (B, C, H, W)."""
        return z
