"""Images that are searched for in pictures."""

import numpy as np

from diffsweep import pictures


def enlarged(x, factor):
    """Return images (N, C, H, W) in [-1, 1] as uint8 (N, H, W, C), with squares of ``factor`` pixels for each pixel."""
    return pictures.to_uint8(x).repeat(factor, axis=1).repeat(factor, axis=2)


def places_of(picture, tiles):
    """Return where each tile, uint8 (N, H, W, C), lies in a picture, pixel for pixel: lists of (top, left)."""
    pixels = np.asarray(picture).reshape(*picture.size[::-1], -1)
    _, height, width, _ = tiles.shape
    counts = np.bincount(pixels[..., 0].ravel(), minlength=256)
    found = []
    for tile in tiles:
        row, column = np.unravel_index(counts[tile[..., 0]].argmin(), (height, width))  # of the rarest value
        tops, lefts = np.nonzero(pixels[..., 0] == tile[row, column, 0])
        corners = zip((tops - row).tolist(), (lefts - column).tolist(), strict=True)
        found.append(
            [
                (top, left)
                for top, left in corners
                if min(top, left) >= 0 and np.array_equal(pixels[top : top + height, left : left + width], tile)
            ]
        )
    return found
