"""Images of a lower resolution as the space of diffusion: the space of the base of a cascade.

A point z of the space has the means of an image over squares of f x f pixels, and decoding enlarges it bilinearly. Both
maps are linear, and the values of z lie in [-1, 1] as those of the pixels do.
"""

from torch import Tensor
from torch.nn import functional

from diffsweep.autoencoders.base import Autoencoder, by_frame
from diffsweep.diffusion import Noise, SquareMeans


class LowResolution(Autoencoder):
    """The means over squares of pixels as the space of diffusion: a model in it draws images of a lower resolution.

    Its samples are enlarged to the size of the data, so that they are shown and measured beside these. A cascade
    (``model=cascade``) draws the details that enlarging leaves out.

    Args:
        channels, image_size: a point of the space is (channels, image_size, image_size), so ``image_size`` is the side
            of the small image.
        pixels: the side of an image of the data.
        factor: f = ``pixels`` / ``image_size``, the side of a square in pixels, at least 2.
        levels: None, since means take more values than pixels do.
        num_frames: F of clips, whose frames are made smaller one by one; None: images.

    Raises:
        ValueError: the factor is below 2, or does not divide the side of an image.
    """

    bounded, levels = True, None

    def __init__(
        self,
        channels: int,
        image_size: int,
        pixels: int,
        factor: int,
        levels: None = None,
        num_frames: int | None = None,
    ) -> None:
        super().__init__()
        if factor < 2:
            raise ValueError(
                f"autoencoder.factor must be at least 2, not {factor}; autoencoder=identity keeps the size"
            )
        if image_size * factor != pixels:
            raise ValueError(f"autoencoder.factor={factor} does not divide the images' side of {pixels} pixels")
        frames = () if num_frames is None else (num_frames,)
        self.shape, self.in_channels, self.factor = (channels, *frames, image_size, image_size), channels, factor

    def posterior(self, x: Tensor) -> Tensor:
        return SquareMeans(self.factor).apply(x)  # (B, C, H / f, W / f)

    def draw(self, posterior: Tensor, noise: Noise | None = None) -> Tensor:
        return posterior

    def decode(self, z: Tensor) -> Tensor:
        return by_frame(lambda small: functional.interpolate(small, scale_factor=self.factor, mode="bilinear"), z)
