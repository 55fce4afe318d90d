"""The one reader of image files: encoded bytes become 8-bit pixels of one size, and a broken file a one-line error."""

import io
import re
from typing import Any, NamedTuple

import numpy as np

from diffsweep.errors import line_of

MODES = {1: "L", 3: "RGB"}  # Pillow's, by number of channels
MOST_PIXELS = 1 << 27  # 134 million pixels, 11,585 x 11,585: more take over half a gigabyte, and are likely an attack
# Raster formats that Pillow decodes by itself; it would run other programs for some (EPS by Ghostscript).
FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "PCX", "QOI"),
    *("DIB", "DDS"),
)
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm", ".pnm"}
)
BACKGROUND = "white"


class UnreadableImageError(ValueError):
    """The error of a file that is no readable image; its message is a reason in a few words, without the file's name.

    An example is "it claims 3600000000 pixels, more than 134217728".
    """


class Decoded(NamedTuple):
    """A decoded image that has been scaled to a requested size, and cropped to a square unless it is kept whole.

    Attributes:
        pixels: uint8, (C, H, W).
        enlarged: whether a side of the original was smaller than the requested one, so that it was scaled up.
    """

    pixels: np.ndarray
    enlarged: bool


def decode(
    content: bytes,
    channels: int,
    image_size: int,
    background: str = BACKGROUND,
    width: int | None = None,
    whole: bool = False,
) -> Decoded:
    """Decode an image file (PNG, JPEG, WebP, ...) to 8-bit pixels of the given size.

    :func:`read_image` describes the colours. Colour becomes grey by ITU-R 601 luma, and grey becomes colour by three
    equal channels. An image of another size is scaled by Pillow's antialiased bicubic filter until it just covers the
    requested size, and its centre is cropped.

    Args:
        content: the bytes of the file.
        channels: 1 (grey) or 3 (RGB).
        image_size: H of the result, and W if ``width`` is None.
        background: the colour behind transparent pixels, see :func:`colour`.
        width: W of the result; None for a square.
        whole: scale the image until its shorter side fits, and crop nothing.

    Raises:
        UnreadableImageError: the content is no image, is cut short or too large (as it is, or scaled whole), or its
            pixels have no fixed range (floating point, or more than 16 bits).
        ValueError: ``background`` is no colour.
    """
    return fitted(read_image(content, background), channels, image_size, width, whole)


def read_image(content: bytes, background: str = BACKGROUND) -> Any:
    """Return an encoded image (PNG, JPEG, WebP, ...) as a Pillow image in grey (``L``) or colour (``RGB``) of 8 bits.

    It keeps its size and is rotated by its EXIF orientation. Of an animation it is the first frame. Transparent pixels
    are composited over the background: v = a v + (1 - a) b for opacity a. Dropping a instead would show the colours
    that the file holds where nothing is seen, which are arbitrary. Palettes become their colours, CMYK becomes RGB
    without a colour profile. Grey values v of 16 bits become round(v / 257); of 16-bit colours Pillow keeps the high
    bytes.

    Args:
        content: the bytes of the file.
        background: the colour behind transparent pixels, see :func:`colour`.

    Raises:
        UnreadableImageError: the content is no image, is cut short or too large, or its pixels have no fixed range.
        ValueError: ``background`` is no colour.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    behind = colour(background)
    if not content:
        raise UnreadableImageError("it is empty, 0 bytes")
    try:
        with _opened(content) as opened:
            _refuse_huge(*opened.size)
            opened.load()
            image = _in_bytes(opened)
            if opened.getexif().get(0x0112, 1) != 1:  # the orientation; 1 is upright
                image = ImageOps.exif_transpose(image)
            return _opaque(image, behind)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("it is no image of a known format") from error
    except Image.DecompressionBombError as error:  # Pillow's own, of a size that only its message has
        count = re.search(r"\d+", str(error))
        raise UnreadableImageError(f"it claims {count and count[0]} pixels, more than {MOST_PIXELS}") from error
    except Exception as error:  # Pillow's decoders raise errors of many classes for broken files
        raise UnreadableImageError(line_of(error)) from error


def size_and_mode(content: bytes) -> tuple[int, int, bool]:
    """Return the width, the height and whether an encoded image is grey, from the head of the file alone.

    An image is grey if its file stores one channel beside transparency and has no palette.

    Args:
        content: the bytes of the file.

    Raises:
        UnreadableImageError: the content is no image.
    """
    from PIL import UnidentifiedImageError

    try:
        with _opened(content) as opened:
            width, height = opened.size
            if opened.getexif().get(0x0112, 1) >= 5:  # rotated by a quarter
                width, height = height, width
            return width, height, opened.mode in ("1", "L", "LA", "La") or opened.mode.startswith("I")
    except UnidentifiedImageError as error:
        raise UnreadableImageError("it is no image of a known format") from error
    except Exception as error:
        raise UnreadableImageError(line_of(error)) from error


def colour(background: str) -> tuple[int, int, int]:
    """Return a colour as three values from 0 to 255, red, green and blue.

    Args:
        background: a name of HTML (``white``, ``black``, ``tomato``), or ``#rrggbb``, or ``rgb(255,0,0)``.

    Raises:
        ValueError: the text is no colour.
    """
    from PIL import ImageColor

    try:
        red, green, blue, *opacity = ImageColor.getrgb(background)
    except ValueError:
        opacity = [0]
    if opacity not in ([], [255]):
        raise ValueError(
            f"dataset.background={background}: no such colour; give white, black, another name of HTML, or '#rrggbb'"
        )
    return red, green, blue


def fitted(image: Any, channels: int, image_size: int, width: int | None = None, whole: bool = False) -> Decoded:
    """Return a Pillow image of 8 bits a channel, converted to the given channels and scaled and cropped to a size.

    It is scaled by Pillow's antialiased bicubic filter until it just covers the size, and its centre is cropped.

    Args:
        image: the Pillow image.
        channels: C, 1 (grey) or 3 (RGB).
        image_size: H of the result, and W if ``width`` is None.
        width: W of the result; None for a square.
        whole: crop nothing: ``image_size`` is the shorter side of the result, and the longer one keeps the aspect.

    Raises:
        UnreadableImageError: the whole image would be too large with its shorter side scaled.
    """
    from PIL import Image, ImageOps

    size = (image_size if width is None else width, image_size)
    if image.mode != MODES[channels]:
        image = image.convert(MODES[channels])
    enlarged = image.size[0] < size[0] or image.size[1] < size[1]
    if whole:
        size = tuple(round(side * image_size / min(image.size)) for side in image.size)
        if size[0] * size[1] > MOST_PIXELS:
            raise UnreadableImageError(f"scaled whole it has {size[0]} x {size[1]} pixels, more than {MOST_PIXELS}")
    if image.size != size:
        method = Image.Resampling.BICUBIC
        image = image.resize(size, method) if whole else ImageOps.fit(image, size, method=method)
    pixels = np.asarray(image).reshape(size[1], size[0], channels)
    return Decoded(pixels.transpose(2, 0, 1), enlarged)


def _opened(content: bytes) -> Any:
    """Return a Pillow image of which only the head has been read."""
    from PIL import Image

    Image.init()  # the formats beside the usual ones; once alone
    return Image.open(io.BytesIO(content), formats=[kind for kind in FORMATS if kind in Image.OPEN])


def _refuse_huge(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise UnreadableImageError(f"it claims {width} x {height} pixels, more than {MOST_PIXELS} in all")


def _in_bytes(image: Any) -> Any:
    """Return a Pillow image with 8 bits a channel; Pillow's own conversion would clip 16-bit values at 255."""
    from PIL import Image

    if image.mode == "F":
        raise UnreadableImageError("its pixels are floating-point numbers, which have no fixed range")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UnreadableImageError("its pixels have more than 16 bits")
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if isinstance(clear := image.info.get("transparency"), int):  # the one value that is transparent
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    if exif := image.info.get("exif"):
        grey.info["exif"] = exif
    return grey


def _opaque(image: Any, behind: tuple[int, int, int]) -> Any:
    """Return a Pillow image in grey or colour, composited over a colour where it is transparent."""
    from PIL import Image

    if image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA", "La") and len(set(behind)) == 1
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*behind, 255)), over).convert("RGB")
        return image.getchannel(0) if grey else image
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
