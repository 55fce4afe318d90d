r"""Conditioning on an image :math:`c = A x_0`: a degraded copy of the sample, such as its means over squares of pixels.

A network of p(x_0 | A x_0) restores images: it enlarges them, colours them or fills a hole. In training A is applied to
the sample; in sampling, to held-out images or to a given one. The network sees c as further channels of its input,
:math:`[x_t, c]`, or as features of the whole image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn
from torch.nn import functional

from diffsweep.conditioning.base import Conditioning
from diffsweep.diffusion import Condition

if TYPE_CHECKING:  # it imports Lightning, which takes seconds
    from diffsweep.datasets import Batch, Samples

Source = Literal["low_res", "grey", "hole"]


def low_res(x: Tensor, factor: int) -> Tensor:
    """Return images with the resolution of larger pixels, for super-resolution, of the shape of x.

    They are the means over squares of ``factor`` x ``factor`` pixels, enlarged again bilinearly.

    Args:
        x: (B, C, H, W).
        factor: the side of the squares, which divides H and W.
    """
    return functional.interpolate(functional.avg_pool2d(x, factor), size=x.shape[2:], mode="bilinear")


def grey(x: Tensor, factor: int) -> Tensor:
    """Return the mean over the channels of x (B, C, H, W), repeated in all C, for colourisation; ignore ``factor``."""
    return x.mean(1, keepdim=True).expand_as(x)


def hole(x: Tensor, factor: int) -> Tensor:
    """Return x (B, C, H, W) with zeros in a central square of H // factor x W // factor pixels, for inpainting."""
    image = x.clone()
    rows, columns = ((size - size // factor) // 2 for size in x.shape[2:])
    image[:, :, rows : rows + x.shape[2] // factor, columns : columns + x.shape[3] // factor] = 0
    return image


_SOURCES: dict[Source, Callable[[Tensor, int], Tensor]] = {"low_res": low_res, "grey": grey, "hole": hole}


class ImageConditioning(Conditioning):
    """A conditioning on a degraded copy of the sample, which the network reads as further channels beside x_t.

    So do SR3 (Saharia et al. 2021, arXiv:2104.07636) and Palette (arXiv:2111.05826). The condition's ``image``,
    (B, C, H, W), has the sample's size. In training it is the degraded training image; samples are drawn for degraded
    held-out images, in turn.

    Args:
        channels: C of the data.
        image_size: the side of the data's images, in pixels.
        source: how images are degraded. ``low_res``: means over squares, enlarged again; ``grey``: the mean of the
            channels; ``hole``: zeros in a central square.
        factor: the side of the squares in pixels for ``low_res``, which divides the image's side; for ``hole`` the
            image's side over that of the hole. It lies between 2 and ``image_size``.
        dropout: the probability that a training sample has the null condition, an image of zeros.

    Raises:
        ValueError: an unknown ``source`` or a ``factor`` that does not fit; in ``request``, no held-out data.
    """

    requires_pixels = True
    requires = frozenset({"range"})  # the image stands beside pixels, not latents

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
            raise ValueError(
                f"conditioning.factor must lie between 2 and the image's {image_size} pixels, not {factor}"
            )
        if source == "low_res" and image_size % factor:
            raise ValueError(f"conditioning.factor={factor} does not divide the image's {image_size} pixels")
        self.source, self.factor = source, factor
        self.sizes = {"image_channels": channels}

    def image(self, batch: Batch) -> Tensor:
        """Return the degraded images of a batch, (B, C, H, W): its ``image``, if any, else computed from its ``x``."""
        return batch["image"] if "image" in batch else _SOURCES[self.source](batch["x"], self.factor)

    def condition(self, batch: Batch) -> Condition:
        return Condition(image=self.image(batch))

    def request(self, indices: Tensor, samples: Samples | None) -> Batch:
        if samples is None:
            raise ValueError("samples are drawn for degraded held-out images: give the data, or a condition")
        rows = indices.cpu() % len(samples)
        return {"image": self.image({"x": samples[rows]["x"]})}


class ImageFeatures(ImageConditioning):
    """A conditioning on features of a degraded copy of the sample, by a convolutional encoder that is trained jointly.

    The features are the condition's ``vector``, (B, D), which the backbone adds to the time embedding. With
    ``backbone.time_embedding=scale_shift`` they scale and shift every feature map (FiLM, Perez et al. 2018,
    arXiv:1709.07871).

    Args:
        vector_dim: D, the number of features, at least 1; otherwise a ValueError is raised.
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
            nn.AdaptiveAvgPool2d(4),  # 4 x 4 cells keep roughly where things are
            nn.Flatten(),
            nn.Linear(64 * 16, vector_dim),
        )

    def condition(self, batch: Batch) -> Condition:
        return Condition(vector=self.encoder(self.image(batch)))  # (B, D)
