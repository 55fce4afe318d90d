"""What an autoencoder is: a space for diffusion, and the way there and back."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Autoencoder(nn.Module, ABC):
    """Maps pixels to the space where diffusion happens, and back.

    Attributes:
        shape: of one sample in the space, (C, H, W).
        bounded: whether the space's values lie in [-1, 1], as pixels do.
        levels: the number of equally spaced values on [-1, 1] that the space's data take, None where continuous.
    """

    shape: tuple[int, ...]
    bounded: bool
    levels: int | None

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Pixels (B, C, H, W) to the space (B, *shape)."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """The space (B, *shape) to pixels (B, C, H, W)."""
