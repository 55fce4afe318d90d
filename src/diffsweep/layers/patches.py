"""Images as sequences of patches, and the places of the patches."""

import functools
import math

import torch
from einops import rearrange
from torch import Tensor, nn


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches.

    Raises:
        ValueError: the patch size does not divide the image.
    """
    if patch_size < 1 or height % patch_size or width % patch_size:
        side = math.gcd(height, width)
        *most, last = (str(size) for size in range(1, side + 1) if side % size == 0)
        image = f"{height}" if height == width else f"{height} x {width}"
        raise ValueError(
            f"backbone.patch_size={patch_size} does not divide the {image}-pixel image; "
            f"use {', '.join(most) + ' or ' if most else ''}{last}"
        )
    return height // patch_size, width // patch_size


class PatchEmbedding(nn.Linear):
    """A linear map of each patch (arXiv:2010.11929): the convolution with stride p, but the tokens lie in memory as blocks read them.

    The weight is that of the convolution, (C', C, p, p), flattened.

    Args:
        in_channels: C of the image.
        channels: C' of the tokens.
        patch_size: p.
    """

    def __init__(self, in_channels: int, channels: int, patch_size: int) -> None:
        super().__init__(in_channels * patch_size**2, channels)
        self.patch_size = patch_size

    def forward(self, x: Tensor) -> Tensor:
        p = self.patch_size
        return super().forward(rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=p, q=p))  # (B, N, C')


def unpatchify(tokens: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """(B, N, p p C) to (B, C, H, W)."""
    return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=grid[0], p=patch_size, q=patch_size)


def _angles(grid: tuple[int, int], count: int) -> Tensor:
    """Row and column of each patch times the frequencies 10000^(-i / count), float64, (2, N, count)."""
    places = torch.cartesian_prod(*(torch.arange(size, dtype=torch.float64, device="cpu") for size in grid))  # (N, 2)
    return places.T[..., None] * 10000 ** (-torch.arange(count, dtype=torch.float64, device="cpu") / count)


@functools.lru_cache(
    maxsize=16
)  # 80 us of a call at 4 x 4 patches, 9 ms at 16 x 16 of 768 channels; and a copy to the device
@torch.inference_mode(False)
def sincos_positions(grid: tuple[int, int], channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Sines and cosines of the column in the first half of the channels, of the row in the second (MAE, arXiv:2111.06377), (N, C).

    They are those of the grid at hand: another size of image is given its own, none are stretched.
    """
    angles = _angles(grid, channels // 4).flip(0)
    return rearrange(torch.cat([angles.sin(), angles.cos()], dim=-1), "a n c -> n (a c)").to(device, dtype)


Rotation = tuple[Tensor, Tensor]


@functools.lru_cache(maxsize=16)  # 70 us of a call at 4 x 4 patches; and two copies to the device
@torch.inference_mode(False)
def axial_rotation(
    grid: tuple[int, int], channels: int, extras: int, device: torch.device, dtype: torch.dtype
) -> Rotation:
    """Cosine and sine of the rotary angles (RoPE, arXiv:2104.09864), (extras + N, D / 2): the first half turn with the row, the rest with the column.

    Args:
        grid: rows and columns of patches.
        channels: D, of one head.
        extras: tokens before the patches that have no place, and are not turned.
        device: of the result.
        dtype: of the result.
    """
    angles = rearrange(_angles(grid, channels // 4), "a n c -> n (a c)")
    angles = torch.cat([angles.new_zeros(extras, channels // 2), angles])
    return angles.cos().to(device, dtype), angles.sin().to(device, dtype)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Channels i and i + D / 2 as a plane, turned; x (B, heads, N, D)."""
    (cos, sin), (a, b) = rotation, x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
