"""The images and clips that a task of ``sample.py`` starts from, by ``task.source``."""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffsweep import pictures
from diffsweep.datasets import ImageData
from diffsweep.datasets.image_file import load_image
from diffsweep.datasets.images import SUFFIXES
from diffsweep.datasets.video_files import UnusableError, find, frames
from diffsweep.errors import UserError


def images_missing_because(source: str) -> str | None:
    """Return a sentence why ``task.source`` has no images; None if it has any, as far as its path shows.

    Files are not opened. ``data``, the held-out data of the model, always gives None.

    Args:
        source: a source of :func:`load_images`.
    """
    if reason := _absent_because(source, "an image, a folder of images, an .npz file, or data"):
        return reason
    if source != "data" and (path := Path(source)).is_dir() and not _images_in(path):
        return f"task.source={source}: the folder has no images ({', '.join(sorted(SUFFIXES))})"
    return None


def clips_missing_because(source: str) -> str | None:
    """Return a sentence why ``task.source`` has no clips that can be read; None if it has, as far as its path shows.

    Files are not opened. ``data``, the held-out data of the model, always gives None.

    Args:
        source: a source of :func:`load_clips`.
    """
    if reason := _absent_because(source, "a video, a folder of videos, an .npz file, or data"):
        return reason
    if source == "data" or (path := Path(source)).suffix == ".npz":
        return None
    videos = _videos_at(path)
    if not videos:
        return f"task.source={source}: the folder has no videos, and no folders of frames"
    files = [video.name for video in videos if not video.is_dir()]
    if files and importlib.util.find_spec("av") is None:
        return f"task.source: reading {files[0]} needs av; pip install 'diffsweep[video]'"
    return None


def load_images(source: str, data: ImageData, count: int, side: int | None = None) -> Tensor:
    """Return the first images of a source, at most ``count``, as the model takes them: (N, C, H, W) in [-1, 1].

    Args:
        source: ``data`` for held-out data; an image or a folder of images, which are cut to a square and resized; or an
            .npz file whose first array has images (N, H, W, C) of uint8, as ``sample.py`` writes it.
        data: the data of the model, whose number of channels and image size the images get. Grey files become colour by
            three equal channels, and colour files whose channels are equal become grey.
        count: the largest number of images.
        side: the side that images from files get; None for that of the data, which images of ``data`` always have.

    Raises:
        UserError: the .npz file has images of another shape than the data, an image cannot be read, or it is coloured
            and the model's images are grey.
    """
    if source == "data":
        return data.split("val")["x"][:count]
    path, side = Path(source), data.image_size if side is None else side
    if path.suffix == ".npz":
        images = pictures.load_npz(path)[:count]
        if images.shape[1:] != (data.channels, side, side):
            raise UserError(
                f"{source} has images of shape {tuple(images.shape[1:])}, and the model's have "
                f"({data.channels}, {side}, {side})"
            )
        return images
    paths = [path] if path.is_file() else _images_in(path)
    return torch.stack([load_image(each, data.channels, side, "task.source") for each in paths[:count]])


def load_clips(source: str, data: ImageData, count: int, factor: int = 1) -> Tensor:
    """Return the first clips of a source, at most ``count``, with all their frames: (N, C, F, H, W) in [-1, 1].

    Args:
        source: ``data`` for held-out data; a video file, a folder of frames, or a folder of such videos, whose
            frames are cut to a square and resized; or an .npz file whose first array has clips (N, F, H, W, C) of
            uint8, as ``sample.py`` writes it.
        data: the data of the model, whose number of channels and image size the frames get.
        count: the largest number of clips.
        factor: the factor by which the side of frames from files is below that of the data; 1 for the same side. Clips
            of ``data`` always have the data's side.

    Raises:
        UserError: the .npz file has clips of another shape, a video cannot be read, or videos differ in length.
    """
    side = data.image_size // factor
    if source == "data":
        samples = data.split("val")
        x: Tensor = samples[torch.arange(min(count, len(samples)))]["x"]
        return x
    path = Path(source)
    if path.suffix == ".npz":
        clips = pictures.load_npz(path)[:count]
        if clips.ndim != 5 or (clips.shape[1], *clips.shape[3:]) != (data.channels, side, side):
            raise UserError(
                f"{source} has samples of shape {tuple(clips.shape[1:])}, and clips of "
                f"({data.channels}, frames, {side}, {side}) are needed"
            )
        return clips
    videos = _videos_at(path)[:count]
    read = [_load_video(video, data.channels, side) for video in videos]
    lengths = [clip.shape[1] for clip in read]
    if len(set(lengths)) > 1:
        shortest, longest = (lengths.index(most) for most in (min(lengths), max(lengths)))
        raise UserError(
            f"task.source={source}: clips must have equally many frames, and {videos[shortest].name} has "
            f"{lengths[shortest]}, {videos[longest].name} has {lengths[longest]}; cut them, or give one of them"
        )
    return torch.stack(read)


def _load_video(video: Path, channels: int, image_size: int) -> Tensor:
    """Return all frames of a video, (C, F, H, W) in [-1, 1]."""
    try:
        pixels = [frame.pixels for frame in frames(video, None, channels, image_size)]
    except UnusableError as error:
        raise UserError(f"task.source: {video.name} {error}") from error
    return torch.from_numpy(np.stack(pixels, 1)).float() / 127.5 - 1


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _videos_at(path: Path) -> list[Path]:
    return find(path) if path.is_dir() else [path]


def _absent_because(source: str, kinds: str) -> str | None:
    if source == "data" or Path(source).exists():
        return None
    return f"task.source={source}: no such file; give {kinds}"
