"""Images as sequences of patches, and the positions of the patches.

An image (B, C, H, W) is N = (H / p) (W / p) patches of p x p pixels, row after row, each of which becomes a token. Two
encodings of a patch at row r and column s use the frequencies w_i = 10000^(-i / n):

* added positions: sin(w_i s), cos(w_i s), sin(w_i r), cos(w_i r), with n a quarter of the token's channels;
* rotary positions (RoPE, arXiv:2104.09864): each pair of channels (a, b) of a query or key is rotated by the angle
  u = w_i r or w_i s, to (a cos u - b sin u, a sin u + b cos u), with n a quarter of the head's channels. The product
  of a rotated query and a rotated key depends on the difference of their positions alone.
"""

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from diffsweep.layers.constants import made_once


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Return the rows and columns of patches of an image, (height / patch_size, width / patch_size).

    Raises:
        ValueError: the patch size is below 1, or does not divide both height and width.
    """
    if patch_size < 1 or height % patch_size or width % patch_size:
        side = math.gcd(height, width)
        *fitting, last = (str(size) for size in range(1, side + 1) if side % size == 0)
        image = f"{height}" if height == width else f"{height} x {width}"
        raise ValueError(
            f"backbone.patch_size={patch_size} does not divide the {image}-pixel image; "
            f"use {', '.join(fitting) + ' or ' if fitting else ''}{last}"
        )
    return height // patch_size, width // patch_size


class PatchEmbedding(nn.Linear):
    """A linear map from each patch of p x p pixels to a token (arXiv:2010.11929): (B, C, H, W) to (B, N, C').

    The N = (H / p) (W / p) patches are in the order of rows. The map equals a convolution of kernel p and stride p with
    the weight (C', C, p, p), which is flattened here. Unlike the convolution's, its output is contiguous in the order
    (B, N, C') that transformer blocks read.

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
    """Return the images (B, C, H, W) whose patches are given by tokens.

    Args:
        tokens: (B, N, p p C), each the pixels of a patch in the order row, column, channel.
        grid: rows H / p and columns W / p of the N patches, which are in the order of rows.
        patch_size: p, the side of a patch.
    """
    return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=grid[0], p=patch_size, q=patch_size)


def _angles(grid: tuple[int, int], count: int) -> Tensor:
    """Return the row and the column of each patch times the frequencies 10000^(-i / count), float64, (2, N, count)."""
    points = torch.cartesian_prod(*(torch.arange(size, dtype=torch.float64, device="cpu") for size in grid))  # (N, 2)
    return points.T[..., None] * 10000 ** (-torch.arange(count, dtype=torch.float64, device="cpu") / count)


@made_once(16)  # saves 80 us at 4 x 4 patches, 9 ms at 16 x 16 of 768 channels, and a copy
@torch.inference_mode(False)
def sincos_positions(grid: tuple[int, int], channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return sinusoidal positions (N, C) of the patches of a grid, as in MAE (arXiv:2111.06377).

    The first half of the channels holds sines, then cosines of the column, the second half those of the row, at the
    frequencies 10000^(-i / (C / 4)). They are computed for each grid, not interpolated from those of one image size.

    Args:
        grid: rows and columns of the N patches, which are in the order of rows.
        channels: C, divisible by 4.
        device: of the result.
        dtype: of the result.
    """
    angles = _angles(grid, channels // 4).flip(0)
    return rearrange(torch.cat([angles.sin(), angles.cos()], dim=-1), "a n c -> n (a c)").to(device, dtype)


Rotation = tuple[Tensor, Tensor]


@made_once(16)  # saves 70 us at 4 x 4 patches, and two copies to the device
@torch.inference_mode(False)
def axial_rotation(
    grid: tuple[int, int], channels: int, extras: int, device: torch.device, dtype: torch.dtype
) -> Rotation:
    """Return the cosines and sines of rotary angles (RoPE, arXiv:2104.09864) for the patches of a grid.

    The first half of the angles is proportional to the row, the second half to the column, with the frequencies
    10000^(-i / (D / 4)).

    Args:
        grid: rows and columns of the N patches, which are in the order of rows.
        channels: D of one head, divisible by 4.
        extras: number of tokens before the patches that have no position; their angles are 0.
        device: of the result.
        dtype: of the result.

    Returns:
        The cosines and the sines, each (extras + N, D / 2), for :func:`~diffsweep.layers.rotate`.
    """
    angles = rearrange(_angles(grid, channels // 4), "a n c -> n (a c)")
    angles = torch.cat([angles.new_zeros(extras, channels // 2), angles])
    return angles.cos().to(device, dtype), angles.sin().to(device, dtype)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Return queries or keys whose channel pairs (i, i + D / 2) are rotated, each token by its own angles.

    A pair (a, b) becomes (a cos u - b sin u, a sin u + b cos u) for the angle u.

    Args:
        x: queries or keys, (B, heads, N, D).
        rotation: cosines and sines of the angles, each (N, D / 2).
    """
    (cos, sin), (a, b) = rotation, x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
