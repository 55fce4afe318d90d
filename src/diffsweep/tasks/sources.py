"""Images and clips that tasks of ``sample.py`` are given."""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffsweep import pictures
from diffsweep.datasets import ImageData
from diffsweep.datasets.video_files import UnusableError, find, frames
from diffsweep.errors import UserError


def load_images(source: str, data: ImageData, count: int) -> Tensor:
    """At most ``count`` images as the data has them: (N, C, H, W) in [-1, 1].

    Args:
        source: ``data``, the held-out ones; an image or a folder of images, cut to a square and resized; or an .npz file with images
            (N, H, W, C) of uint8 as its first array, as ``sample.py`` writes it.
        data: whose channels and size they get.
        count: how many.

    Raises:
        UserError: there is no such file, or it holds no such images.
    """
    if source == "data":
        return data.split("val")["x"][:count]
    path = _existing(source, "an image, a folder of images, an .npz file, or data")
    if path.suffix == ".npz":
        images = pictures.load_npz(path)[:count]
        if images.shape[1:] != (data.channels, data.image_size, data.image_size):
            raise UserError(
                f"{source} holds images of shape {tuple(images.shape[1:])}, the model's have ({data.channels}, {data.image_size}, {data.image_size})"
            )
        return images
    paths = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix.lower() in pictures.SUFFIXES)
    if not paths:
        raise UserError(f"task.source={source}: the folder has no images ({', '.join(sorted(pictures.SUFFIXES))})")
    return torch.stack([pictures.load_image(each, data.channels, data.image_size) for each in paths[:count]])


def load_clips(source: str, data: ImageData, count: int, factor: int = 1) -> Tensor:
    """At most ``count`` clips: (N, C, F, H, W) in [-1, 1], with all their frames.

    Args:
        source: ``data``, the held-out ones; a video file, a folder of frames, or a folder of such videos, whose frames are cut to a square and
            resized; or an .npz file with clips (N, F, H, W, C) of uint8 as its first array, as ``sample.py`` writes it.
        data: whose channels and size they get.
        count: how many.
        factor: how many times smaller than the data's their frames are, in files.

    Raises:
        UserError: there is no such file, it holds no such clips, or they have several lengths.
    """
    side = data.image_size // factor
    if source == "data":
        samples = data.split("val")
        x: Tensor = samples[torch.arange(min(count, len(samples)))]["x"]
        return x
    path = _existing(source, "a video, a folder of videos, an .npz file, or data")
    if path.suffix == ".npz":
        clips = pictures.load_npz(path)[:count]
        if clips.ndim != 5 or (clips.shape[1], *clips.shape[3:]) != (data.channels, side, side):
            raise UserError(
                f"{source} holds samples of shape {tuple(clips.shape[1:])}, and clips of ({data.channels}, frames, {side}, {side}) are needed"
            )
        return clips
    videos = find(path) if path.is_dir() else [path]
    if not videos:
        raise UserError(f"task.source={source}: the folder has no videos, and no folders of frames")
    read = [_load_video(video, data.channels, side) for video in videos[:count]]
    lengths = [clip.shape[1] for clip in read]
    if len(set(lengths)) > 1:
        shortest, longest = (lengths.index(most) for most in (min(lengths), max(lengths)))
        raise UserError(
            f"task.source={source}: clips have as many frames as each other, and {videos[shortest].name} has {lengths[shortest]}, "
            f"{videos[longest].name} has {lengths[longest]}; cut them, or give one of them"
        )
    return torch.stack(read)


def _load_video(video: Path, channels: int, image_size: int) -> Tensor:
    """All frames of a video, (C, F, H, W) in [-1, 1]."""
    if not video.is_dir() and importlib.util.find_spec("av") is None:
        raise UserError(f"task.source: {video.name} needs av to be read; pip install 'diffsweep[video]'")
    try:
        pixels = [frame.pixels for frame in frames(video, None, channels, image_size)]
    except UnusableError as error:
        raise UserError(f"task.source: {video.name} {error}") from error
    return torch.from_numpy(np.stack(pixels, 1)).float() / 127.5 - 1


def _existing(source: str, kinds: str) -> Path:
    """A file or folder that is there."""
    path = Path(source)
    if not path.exists():
        raise UserError(f"task.source={source}: there is no such file; give {kinds}")
    return path
