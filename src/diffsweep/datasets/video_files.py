"""Find video files and folders of frames, and read their frames one after the other at a requested frame rate."""

import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from diffsweep.datasets.images import Decoded, UnreadableImageError, fitted, read_image
from diffsweep.files import read_bytes

VIDEOS = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".webm"}
FRAMES = {".jpeg", ".jpg", ".png"}
Frame = TypeVar("Frame")


class UnusableError(ValueError):
    """The error of a video that cannot be used; its message continues the video's name, such as "has no frame"."""


def natural(path: Path) -> tuple[list[str | int], str]:
    """Return a key that sorts paths in natural order, with numbers by their values: frame_2 before frame_10."""
    parts = re.split(r"(\d+)", path.name.lower())  # text and numbers in turn, text first
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def find(folder: Path) -> list[Path]:
    """Return the videos in a folder and its subfolders, in natural order of their names, without hidden ones.

    A video is a file such as ``a.mp4``, or a folder that holds frames (png or jpg files) directly.
    """
    entries = sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=natural)
    found = [folder] if any(entry.suffix.lower() in FRAMES for entry in entries) else []
    for entry in entries:
        if entry.is_dir():
            found += find(entry)
        elif entry.suffix.lower() in VIDEOS:
            found.append(entry)
    return found


def files_of(video: Path) -> list[Path]:
    """Return the files of a video: the video file itself, or the png and jpg files of a folder in natural order."""
    if not video.is_dir():
        return [video]
    return sorted((entry for entry in video.iterdir() if entry.suffix.lower() in FRAMES), key=natural)


def frames(video: Path, frame_rate: float | None, channels: int, image_size: int) -> Iterator[Decoded]:
    """Yield the frames of a video, scaled and cropped to one size as in :func:`diffsweep.datasets.images.decode`.

    Args:
        video: a video file, of which the frames shown at times k / ``frame_rate`` are taken; or a folder of frames, of
            which all are taken, since they have no times.
        frame_rate: frames a second; None for all frames of the file.
        channels: 1 (grey) or 3 (RGB).
        image_size: H and W of the results.

    Raises:
        UnusableError: the video cannot be read, has no frame, or has frames of several sizes. Frames before the fault
            may have been yielded. A file that is cut short yields the frames before the cut and ends without an error
            if its format allows.
    """
    images = _of_folder(video) if video.is_dir() else _of_file(video, frame_rate)
    size = None
    for image in images:
        size = size or image.size
        if image.size != size:
            raise UnusableError(f"has frames of {_by(size)} and of {_by(image.size)} pixels")
        yield fitted(image, channels, image_size)
    if size is None:
        raise UnusableError("has no frame")


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _of_folder(folder: Path) -> Iterator[Any]:
    for file in files_of(folder):
        try:
            yield read_image(read_bytes(file))
        except (OSError, UnreadableImageError) as error:
            raise UnusableError(f"has a frame that cannot be read, {file.name}") from error


def _of_file(file: Path, frame_rate: float | None) -> Iterator[Any]:
    import av

    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise UnusableError("has sound but no video" if container.streams.audio else "has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            timed = _timed(container.decode(stream), stream)
            if frame_rate is not None:
                timed = resampled(timed, Fraction(frame_rate).limit_denominator(100_000), _rounding(stream))
            for _, frame in timed:
                yield frame.to_image()
    except (av.FFmpegError, OSError, EOFError) as error:
        raise UnusableError(f"cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})") from error


def _rounding(stream: Any) -> Fraction:
    """Return the rounding error of a stream's times in seconds: half a tick of its clock, or 0 if a frame is a tick."""
    tick = Fraction(stream.time_base or 0)
    return tick / 2 if tick * Fraction(stream.average_rate or 25) <= Fraction(1, 2) else Fraction(0)


def _timed(decoded: Iterable[Any], stream: Any) -> Iterator[tuple[Fraction, Any]]:
    """Yield frames with increasing times in seconds; where the file has no valid time, its mean rate gives it."""
    interval = 1 / Fraction(stream.average_rate or 25)
    last: Fraction | None = None
    for frame in decoded:
        if frame.is_corrupt:
            raise UnusableError("is damaged")
        stamp = frame.dts if frame.pts is None else frame.pts
        time = None if stamp is None else stamp * Fraction(frame.time_base)
        if time is None or (last is not None and time <= last):
            time = Fraction(0) if last is None else last + interval
        last = time
        yield time, frame


def resampled(
    timed: Iterable[tuple[Fraction, Frame]], frame_rate: Fraction, slack: Fraction = Fraction(0)
) -> Iterator[tuple[Fraction, Frame]]:
    """Yield the frames that are shown at the times t_0 + k / ``frame_rate`` for k = 0, 1, ..., with these times.

    The frame shown at a time is the last one that began by then. So a frame is repeated or left out as its duration on
    the screen requires, also if the frame rate of the file varies. The last frame is assumed to last as long as the one
    before it, a single frame 1 / ``frame_rate``; the end of this time is excluded.

    Args:
        timed: pairs of a time in seconds and the frame that begins then, with increasing times; the first is t_0.
        frame_rate: frames a second.
        slack: by how many seconds the times may be off; a frame that begins up to so much after a time is still shown
            at it.
    """
    begin = last = Fraction(0)
    shown: list[Frame] = []  # at most one
    lasted, count = 1 / frame_rate, 0
    for time, frame in timed:
        if not shown:
            begin = time
        while shown and begin + count / frame_rate + slack < time:
            yield begin + count / frame_rate, shown[0]
            count += 1
        lasted = time - last if shown else lasted
        shown, last = [frame], time
    while shown and begin + count / frame_rate + 3 * slack < last + lasted:  # the end is a sum of three inexact times
        yield begin + count / frame_rate, shown[0]
        count += 1
