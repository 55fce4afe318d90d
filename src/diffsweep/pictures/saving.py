"""Files of pictures, written as PNG, GIF and MP4, in one file or in pages."""

import importlib.util
import math
import re
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from diffsweep.files import write_atomically
from diffsweep.pictures.sheets import PAPER

SHOWN = (".png", ".gif", ".mp4")  # the formats that this module writes


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write a picture as a PNG file atomically: a crash leaves the old file or the new one."""
    write_atomically(path, lambda file: image.save(file, format="PNG"))


def save_gif(frames: list[Image.Image], path: str | Path, milliseconds: int = 60, hold: int = 1500) -> None:
    """Write pictures as the frames of a GIF that loops without end; the file is written atomically.

    A frame that is smaller than others gets paper at its right and lower side.

    Args:
        frames: the pictures.
        path: the file.
        milliseconds: how long each frame but the last is shown.
        hold: how long the last frame is shown, in milliseconds.
    """
    buffer = BytesIO()
    frames = _of_one_size(frames)
    durations = [milliseconds] * (len(frames) - 1) + [hold]
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


def _of_one_size(frames: list[Image.Image]) -> list[Image.Image]:
    sizes = [frame.size for frame in frames]
    if len(set(sizes)) == 1:
        return frames
    size, mode = (max(width for width, _ in sizes), max(height for _, height in sizes)), frames[0].mode
    found = []
    for frame in frames:
        found.append(Image.new(mode, size, PAPER if mode == "L" else (PAPER,) * 3))
        found[-1].paste(frame, (0, 0))
    return found


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


class Page(NamedTuple):
    """One of the pictures that together show all samples, each some of them.

    Attributes:
        part: the numbers of its samples.
        path: its file without the suffix.
        words: which samples it shows, such as ``1 to 100 of 130``; empty for the only page.
    """

    part: slice
    path: Path
    words: str


def pages(count: int, size: int, path: Path, most: int | None = None) -> list[Page]:
    """Return the pages on which samples are shown, and remove the pages that an earlier picture of this name had.

    A single page has the file ``path``, and several have ``path_1``, ``path_2`` and so on, with as many digits as the
    last one.

    Args:
        count: the number of samples, at least 1.
        size: the number of samples of a full page.
        path: the file of the picture without its suffix.
        most: the largest number of pages; None for as many as show all samples.
    """
    for old in path.parent.glob(f"{path.name}*"):
        if old.suffix in SHOWN and re.fullmatch(re.escape(path.name) + r"(_\d+)?", old.stem):
            old.unlink()
    needed = math.ceil(count / size)
    number = needed if most is None else min(needed, most)
    if needed == 1:
        return [Page(slice(0, count), path, "")]
    found = []
    for i in range(number):
        first, last = i * size, min(count, (i + 1) * size)
        name = path.name if number == 1 else f"{path.name}_{i + 1:0{len(str(number))}d}"
        found.append(Page(slice(first, last), path.with_name(name), f"{first + 1} to {last} of {count}"))
    return found


def picture_name(page: Path) -> str:
    """Return the name that the file of a page has without its number, such as ``grid`` of ``grid_2.png``."""
    return re.sub(r"_\d+$", "", page.stem)


def listed(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return files in their order with a remark, where pages of one picture are one entry: that of the first page.

    Args:
        paths: files, of which those named as by :func:`pages` are pages.

    Returns:
        Pairs of a path and a remark, which is empty except for pages: ``to grid_3.png, 3 pages``.
    """
    found: dict[tuple[str, str], list[Path]] = {}
    for path in paths:
        name = picture_name(path) if path.suffix in SHOWN else path.stem
        found.setdefault((name, path.suffix), []).append(path)
    return [
        (group[0], f"to {group[-1].name}, {len(group)} pages" if len(group) > 1 else "") for group in found.values()
    ]
