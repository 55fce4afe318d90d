r"""Resizing of images for networks of features, by the two ways that published numbers use.

``legacy`` is the bilinear interpolation of the original evaluators of FID (TensorFlow 1): pixel j of n' takes its value
at the place

.. math:: p_j = j \, n / n'

of n pixels, between the pixels :math:`\lfloor p_j \rfloor` and :math:`\lfloor p_j \rfloor + 1`, without a filter, so
larger images are aliased. ``clean`` is the antialiased bicubic interpolation of Pillow in floating point, of which
clean-fid (Parmar et al. 2022, arXiv:2104.11222) has shown that other libraries differ.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def legacy(x: Tensor, size: int) -> Tensor:
    """Return images resized bilinearly without antialiasing, as TensorFlow 1 does, (N, C, size, size).

    Args:
        x: float images of any range, (N, C, H, W).
        size: the side of the result.
    """
    return _between(_between(x, size, 3), size, 2)


def clean(x: Tensor, size: int) -> Tensor:
    """Return images resized by an antialiased bicubic filter, as Pillow does in floating point, (N, C, size, size).

    The result is clamped to [0, 255], which the filter would leave at edges.

    Args:
        x: float images in [0, 255], (N, C, H, W).
        size: the side of the result.
    """
    if x.shape[2:] == (size, size):
        return x
    resized = functional.interpolate(x, (size, size), mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp(0, 255)


RESIZES: dict[str, Callable[[Tensor, int], Tensor]] = {"legacy": legacy, "clean": clean}


def check_resize(name: str) -> str:
    """Return the name of a way of resizing if it is one of ``RESIZES``.

    Raises:
        ValueError: it is none.
    """
    if name not in RESIZES:
        raise ValueError(f"metrics.features.resize is {' or '.join(RESIZES)}, not {name}")
    return name


def to_levels(x: Tensor) -> Tensor:
    """Return images in [-1, 1] as whole numbers in [0, 255], float32, with three channels; grey ones are repeated.

    They are those that an 8-bit file of the images has, so metrics of images in memory and of saved ones are equal.

    Args:
        x: (N, C, H, W) with C = 1 or 3; values outside of [-1, 1] are clamped.

    Raises:
        ValueError: C is neither 1 nor 3, or the samples are no images.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"these features are of images of 1 or 3 channels, not of samples of shape {tuple(x.shape)}")
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().expand(-1, 3, -1, -1)


def _between(x: Tensor, size: int, dim: int) -> Tensor:
    """Return a tensor of which one dimension is interpolated linearly at the places j n / size."""
    count = x.shape[dim]
    if count == size:
        return x
    places = torch.arange(size, dtype=torch.float64) * (count / size)
    below = places.floor().long().clamp(max=count - 1)
    shares = (places - below).to(x.dtype).to(x.device)
    shares = shares if dim == 3 else shares[:, None]
    lower, upper = (x.index_select(dim, rows.to(x.device)) for rows in (below, (below + 1).clamp(max=count - 1)))
    return torch.lerp(lower, upper, shares)
