"""Embed pictures in a page: all of them at the best quality at which they fit a number of bytes together."""

import base64
import io
import math
from collections.abc import Sequence

from PIL import Image, features

WEBP = features.check("webp")
# From best to worst: the largest side in pixels, and the quality of the compression; None loses nothing.
QUALITIES = (
    *((640, None), (400, None), (400, 85), (320, 75), (256, 65)),
    *((200, 55), (160, 45), (128, 35), (96, 25), (96, 10)),
)


def embedded(pictures: Sequence[Image.Image], most: int) -> list[str]:
    """Return pictures as ``data:`` addresses, all of one quality: the best whose addresses fit ``most`` characters.

    Args:
        pictures: of any sizes; larger ones are reduced, and none is enlarged.
        most: characters of all addresses together.

    Returns:
        The addresses, in the order of the pictures; as many of the first as fit if not all do at the lowest quality.
    """
    found: list[str] = []
    for side, quality in QUALITIES:
        found, left = [], most
        for picture in pictures:
            address = _address(picture, side, quality)
            left -= len(address)
            if left < 0:
                break
            found.append(address)
        if len(found) == len(pictures):
            break
    return found


def _address(picture: Image.Image, side: int, quality: int | None) -> str:
    """Return a picture as a ``data:`` address in WebP, or in PNG and JPEG if Pillow was built without WebP."""
    image = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
    if max(image.size) > side:
        scale = side / max(image.size)
        size = (max(1, math.floor(image.width * scale)), max(1, math.floor(image.height * scale)))
        image = image.resize(size, Image.Resampling.BOX)
    buffer = io.BytesIO()
    if WEBP:
        kind = "webp"
        options = {"lossless": True, "quality": 60} if quality is None else {"quality": quality}
        image.save(buffer, "WEBP", method=4, **options)
    elif quality is None:
        kind = "png"
        image.save(buffer, "PNG", optimize=True)
    else:
        kind = "jpeg"
        image.save(buffer, "JPEG", quality=quality, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
