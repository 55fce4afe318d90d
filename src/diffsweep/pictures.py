"""Pictures of images and clips: grids, rows and strips, written as PNG, GIF and MP4."""

import importlib.util
import math
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from diffsweep.files import write_atomically

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
SHOWN = (".png", ".gif", ".mp4")  # the formats that this module writes
MIN_SIDE = 48  # pixels; smaller images are enlarged to be visible


def to_uint8(x: Tensor) -> np.ndarray:
    """Return images in [-1, 1], (N, C, H, W), as uint8 (N, H, W, C); clips (N, C, F, H, W) as (N, F, H, W, C).

    Values outside of [-1, 1] are clamped, and others rounded to the nearest of 256 levels.
    """
    pixels = ((x.detach().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.asarray(rearrange(pixels.cpu(), "n c ... h w -> n ... h w c"))


def load_image(path: Path, channels: int, size: int) -> Tensor:
    """Return the largest central square of an image file, resized to (C, size, size), as float32 in [-1, 1].

    Args:
        path: an image file of any size that Pillow reads.
        channels: C, 1 (grey) or 3 (RGB), to which the image is converted.
        size: H and W of the result.
    """
    image = ImageOps.fit(
        Image.open(path).convert("L" if channels == 1 else "RGB"), (size, size), Image.Resampling.LANCZOS
    )
    return _from_uint8(np.asarray(image).reshape(1, size, size, channels))[0]


def load_npz(path: Path) -> Tensor:
    """Return the images in the first array of an .npz file, as float32 values in [-1, 1].

    The array is uint8: images (N, H, W, C) are returned as (N, C, H, W), clips (N, F, H, W, C) as (N, C, F, H, W).
    """
    with np.load(path) as content:
        return _from_uint8(content[content.files[0]])


def _from_uint8(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(rearrange(pixels, "n ... h w c -> n c ... h w").astype(np.float32) / 127.5 - 1)


def grid(x: Tensor, columns: int | None = None) -> Image.Image:
    """Draw images in [-1, 1], (N, C, H, W) with C = 1 or 3, row by row in a grid with thin grey lines between them.

    Images narrower than 48 pixels are enlarged by a whole factor. Places after the last image are grey.

    Args:
        x: the images.
        columns: the number of columns; None for a nearly square grid.
    """
    x = x.detach().cpu().float()
    enlarge = max(1, math.ceil(MIN_SIDE / x.shape[-1]))
    x = x.repeat_interleave(enlarge, 2).repeat_interleave(enlarge, 3)
    columns = columns if columns is not None else math.ceil(math.sqrt(len(x)))
    x = functional.pad(x, (0, 2, 0, 2), value=0.0)
    missing = -len(x) % columns
    x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
    pixels = to_uint8(rearrange(x, "(r k) c h w -> 1 c (r h) (k w)", k=columns))[0, :-2, :-2]
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def rows(*images: Tensor, across: bool = False) -> Image.Image:
    """Draw several sets of images, each set as one row, so that the images of one number in the sets form a column.

    Args:
        images: the sets, each (N, C, H, W) in [-1, 1] with the same N; the first twelve images of each are drawn.
        across: draw each set as a column instead.
    """
    count = min(len(images[0]), 12)
    sets = torch.stack([each[:count].cpu() for each in images])  # (S, N, C, H, W)
    if across:
        sets = sets.transpose(0, 1)
    return grid(sets.flatten(0, 1), columns=sets.shape[1])


def strips(*clips: Tensor, most: int = 8) -> Image.Image:
    """Draw clips in [-1, 1], (N, C, F, H, W), each as a row of its F frames from left to right.

    Clip i of every set is drawn before clip i + 1 of any, so that the rows of corresponding clips lie below each other.

    Args:
        clips: the sets, of equally many clips each.
        most: number of clips of each set that are drawn, the first ones.
    """
    sets = torch.stack([each[:most].cpu() for each in clips], 1)  # (N, S, C, F, H, W)
    return grid(rearrange(sets, "n s c f h w -> (n s f) c h w"), columns=sets.shape[3])


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write a picture as a PNG file atomically: a crash leaves the old file or the new one."""
    write_atomically(path, lambda file: image.save(file, format="PNG"))


def save_gif(frames: list[Image.Image], path: str | Path, milliseconds: int = 60, hold: int = 1500) -> None:
    """Write pictures of one size as the frames of a GIF that loops without end; the file is written atomically.

    Args:
        frames: the pictures.
        path: the file.
        milliseconds: how long each frame but the last is shown.
        hold: how long the last frame is shown, in milliseconds.
    """
    buffer = BytesIO()
    durations = [milliseconds] * (len(frames) - 1) + [hold]
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


def save_mp4(frames: list[Image.Image], path: str | Path, fps: float = 8.0) -> None:
    """Write pictures as an MP4 video in a form that browsers and slides play; the file is written atomically.

    The video is H.264 with chroma of half the size (yuv420p) and the index at the start. Such video has even sides: a
    line of black is added to an odd side.

    Args:
        frames: pictures of one size.
        path: the file.
        fps: frames a second.

    Raises:
        ValueError: PyAV, which encodes the video, is not installed. A GIF needs no further package.
    """
    if importlib.util.find_spec("av") is None:
        raise ValueError("an MP4 needs av to be written; pip install 'diffsweep[video]', or write a GIF")
    import av

    width, height = (side + side % 2 for side in frames[0].size)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.mp4"  # PyAV reads the file again to move the index to the start
        with av.open(str(whole), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "18"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for picture in frames:
                padded = Image.new("RGB", (width, height))
                padded.paste(picture)
                container.mux(stream.encode(av.VideoFrame.from_image(padded)))
            container.mux(stream.encode())
        write_atomically(path, lambda file: file.write(whole.read_bytes()))


def save_shown(draw: Callable[..., Image.Image], sets: Sequence[Tensor], path: Path, fps: float = 8.0) -> list[Path]:
    """Save a picture of images as a PNG; for clips, draw it for each frame and save the pictures as an animation.

    Args:
        draw: makes the picture of sets of images, called as ``draw(*sets)`` with tensors (N, C, H, W), such as
            :func:`grid` of one set or :func:`rows` of several.
        sets: tensors in [-1, 1], all of images (N, C, H, W) or all of clips (N, C, F, H, W).
        path: the file without its suffix.
        fps: frames a second of an animation.

    Returns:
        The files that were written: one PNG for images; for clips a GIF, and an MP4 if PyAV is installed.
    """
    if sets[0].ndim == 4:
        save_png(draw(*sets), path.with_suffix(".png"))
        return [path.with_suffix(".png")]
    frames = [draw(*frame) for frame in zip(*(each.unbind(2) for each in sets), strict=True)]
    save_gif(frames, path.with_suffix(".gif"), milliseconds=round(1000 / fps), hold=round(1000 / fps))
    if importlib.util.find_spec("av") is None:
        return [path.with_suffix(".gif")]
    save_mp4(frames, path.with_suffix(".mp4"), fps)
    return [path.with_suffix(".gif"), path.with_suffix(".mp4")]


def beside(left: Image.Image, right: Image.Image, gap: int = 12) -> Image.Image:
    """Draw two pictures of the same height and mode side by side, with ``gap`` white pixels between them."""
    both = Image.new(
        left.mode, (left.width + gap + right.width, left.height), color=255 if left.mode == "L" else (255,) * 3
    )
    both.paste(left, (0, 0))
    both.paste(right, (left.width + gap, 0))
    return both
