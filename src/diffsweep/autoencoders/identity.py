"""The autoencoder of pixel diffusion, which is the identity."""

from torch import Tensor

from diffsweep.autoencoders.base import Autoencoder
from diffsweep.diffusion import Condition, Noise


class Identity(Autoencoder):
    """The identity as an autoencoder: diffusion takes place in pixels, whose values are in [-1, 1].

    Args:
        channels, image_size: shape (channels, image_size, image_size) of the space.
        levels: number of equally spaced values on [-1, 1] that the data take; None: they are continuous.
        bounded: whether the data lie in [-1, 1].
        num_frames: F of clips, of shape (channels, F, image_size, image_size); None: images.
    """

    def __init__(
        self,
        channels: int,
        image_size: int,
        levels: int | None = None,
        bounded: bool = True,
        num_frames: int | None = None,
    ) -> None:
        super().__init__()
        frames = () if num_frames is None else (num_frames,)
        self.shape, self.in_channels, self.factor = (channels, *frames, image_size, image_size), channels, 1
        self.levels, self.bounded = levels, bounded

    def posterior(self, x: Tensor) -> Tensor:
        return x

    def draw(self, posterior: Tensor, noise: Noise | None = None) -> Tensor:
        return posterior

    def condition_in_space(self, cond: Condition | None) -> Condition | None:
        return cond

    def decode(self, z: Tensor) -> Tensor:
        return z
