"""Conditions that are images."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from diffsweep.conditioning.base import Conditioning
from diffsweep.datasets import Batch, Samples
from diffsweep.diffusion import Condition

Source = Literal["low_res", "grey", "hole"]


def low_res(x: Tensor, factor: int) -> Tensor:
    """Means of squares of factor x factor pixels, enlarged again bilinearly: what SR3 is told."""
    return functional.interpolate(functional.avg_pool2d(x, factor), size=x.shape[2:], mode="bilinear")


def grey(x: Tensor, factor: int) -> Tensor:
    """The mean of the channels, in all of them: what colourisation is told."""
    return x.mean(1, keepdim=True).expand_as(x)


def hole(x: Tensor, factor: int) -> Tensor:
    """0 in the square in the middle whose side is 1 / factor of the image's: what inpainting is told."""
    image = x.clone()
    rows, columns = ((size - size // factor) // 2 for size in x.shape[2:])
    image[:, :, rows : rows + x.shape[2] // factor, columns : columns + x.shape[3] // factor] = 0
    return image


_SOURCES: dict[Source, Callable[[Tensor, int], Tensor]] = {"low_res": low_res, "grey": grey, "hole": hole}


class ImageConditioning(Conditioning):
    """An image of the sample's size, which stands beside x as further channels (SR3, Saharia et al. 2021, arXiv:2104.07636; Palette,
    arXiv:2111.05826). It is what is left of a sample's own image; samples are asked for what is left of held-out ones.

    Args:
        channels, image_size: of the data.
        source: ``low_res``, ``grey`` or ``hole``: see the functions of these names.
        factor: of ``low_res`` and of ``hole``.
        dropout: see :class:`Conditioning`; the null condition is an image of zeros.
    """

    requires_pixels = True
    requires = frozenset({"range"})  # of pixels, beside which the image stands

    def __init__(
        self,
        channels: int,
        image_size: int,
        source: Source = "low_res",
        factor: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dropout)
        if source not in _SOURCES:
            raise ValueError(f"conditioning.source is one of {', '.join(_SOURCES)}, not {source}")
        if not 1 < factor <= image_size:
            raise ValueError(f"conditioning.factor lies between 2 and the image's {image_size} pixels, it is {factor}")
        if source == "low_res" and image_size % factor:
            raise ValueError(f"conditioning.factor={factor} does not divide the image's {image_size} pixels")
        self.source, self.factor = source, factor
        self.sizes = {"image_channels": channels}

    def image(self, batch: Batch) -> Tensor:
        """What is told of the images of a batch, (B, C, H, W)."""
        return batch["image"] if "image" in batch else _SOURCES[self.source](batch["x"], self.factor)

    def condition(self, batch: Batch) -> Condition:
        return Condition(image=self.image(batch))

    def request(self, indices: Tensor, samples: Samples | None) -> Batch:
        if samples is None:
            raise ValueError("samples are asked for what is left of held-out images: give the data, or a condition")
        rows = indices.cpu() % len(samples)
        return {"image": self.image({"x": samples[rows]["x"]})}


class ImageFeatures(ImageConditioning):
    """The same image by features of the whole, from a small convolutional encoder that is trained along: they are added to the time
    embedding, so that with ``backbone.time_embedding=scale_shift`` they shift and scale every feature map (FiLM, Perez et al. 2018,
    arXiv:1709.07871).

    Args:
        vector_dim: number of features.
        channels, image_size, source, factor, dropout: see :class:`ImageConditioning`.
    """

    requires = frozenset()

    def __init__(
        self,
        channels: int,
        image_size: int,
        vector_dim: int = 128,
        source: Source = "low_res",
        factor: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(channels, image_size, source, factor, dropout)
        if vector_dim < 1:
            raise ValueError(f"conditioning.vector_dim must be at least 1, not {vector_dim}")
        self.sizes = {"vector_dim": vector_dim}
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(4),  # where something is counts, too
            nn.Flatten(),
            nn.Linear(64 * 16, vector_dim),
        )

    def condition(self, batch: Batch) -> Condition:
        return Condition(vector=self.encoder(self.image(batch)))  # (B, D)
