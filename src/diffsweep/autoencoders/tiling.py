"""Functions that apply networks to large batches and large images in parts, so that memory stays bounded."""

from collections.abc import Callable

import torch
from torch import Tensor


def in_slices(function: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """Return a function's output for a batch x (B, ...), computed from at most ``size`` rows at once and concatenated.

    Raises:
        ValueError: ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"slices hold at least 1 sample, not {size}")
    return torch.cat([function(part) for part in x.split(size)])


def decode_in_tiles(decode: Callable[[Tensor], Tensor], z: Tensor, tile: int, overlap: int, factor: int) -> Tensor:
    """Return the images (B, C', f h, f w) of latents (B, C, h, w), decoded in square tiles that are blended.

    In an overlap of tiles, the weight of a tile is 0 in the quarter at its own edge, 1 in the innermost quarter, and
    rises linearly between; at each pixel the weights sum to 1. So the result equals that of decoding the whole wherever
    a pixel depends only on latents at most ``overlap // 4`` away. For other decoders no seam is visible, but the tiles
    differ in what is not local (norms, attention).

    Args:
        decode: a decoder of latents (B, C, s, s), or of fewer rows or columns if z has fewer.
        z: latents, (B, C, h, w).
        tile: side s of a tile, in latents.
        overlap: smallest overlap of neighbouring tiles, in latents, in [0, tile); tiles are spread evenly.
        factor: f, the side of an image divided by that of its latents.

    Raises:
        ValueError: the tile is below 1, or the overlap is not in [0, tile).
    """
    if tile < 1 or not 0 <= overlap < tile:
        raise ValueError(
            f"tiles of {tile} latents cannot overlap by {overlap}; use an overlap from 0 to less than the tile"
        )
    rows, columns = (_tiles(size, tile, overlap, factor) for size in z.shape[-2:])
    out: Tensor | None = None
    for i, down in rows:
        for j, across in columns:
            x = decode(z[..., i : i + tile, j : j + tile])  # (B, C', f s, f s)
            if out is None:
                out = x.new_zeros(*x.shape[:2], *(factor * size for size in z.shape[-2:]))
            weight = (down[:, None] * across).to(x)  # (f s, f s)
            out[..., factor * i : factor * i + x.shape[-2], factor * j : factor * j + x.shape[-1]] += weight * x
    assert out is not None
    return out


def _tiles(size: int, tile: int, overlap: int, factor: int) -> list[tuple[int, Tensor]]:
    """Return for each tile of an axis its first latent, and the weights of its pixels, float64.

    At each pixel the weights of all tiles sum to 1.
    """
    tile = min(tile, size)
    count = 1 if tile == size else -(-(size - overlap) // (tile - overlap))
    starts = [round(k * (size - tile) / max(count - 1, 1)) for k in range(count)]
    margin, ramp = factor * (overlap // 4), max(factor * (overlap - 2 * (overlap // 4)), 1)  # in pixels
    inside = torch.arange(factor * tile, dtype=torch.float64) + 0.5  # from the tile's first edge
    rising = ((inside - margin) / ramp).clamp(0, 1)
    weights = torch.zeros(count, factor * size, dtype=torch.float64)
    for k, start in enumerate(starts):
        weight = torch.ones_like(inside)
        if k > 0:
            weight = weight * rising
        if k < count - 1:
            weight = weight * rising.flip(0)
        weights[k, factor * start : factor * (start + tile)] = weight
    weights /= weights.sum(0)
    return [(start, weights[k, factor * start : factor * (start + tile)]) for k, start in enumerate(starts)]
