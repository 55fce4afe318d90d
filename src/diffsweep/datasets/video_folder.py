"""A dataset of clips from a folder of videos, decoded once into a memory-mapped cache."""

import importlib.metadata
import importlib.util
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffsweep import shell
from diffsweep.datasets.base import Balance, ImageData
from diffsweep.datasets.byte_images import LEVELS, ByteClips, fixed_order, identify
from diffsweep.datasets.images import MODES
from diffsweep.datasets.placement import OnDevice
from diffsweep.datasets.samples import Samples, Split
from diffsweep.datasets.video_files import UnusableError, files_of, find, frames, natural
from diffsweep.files import ContentError, content_hash, make_once, write_atomically, write_text
from diffsweep.progress import tracked

NAMED = 3  # skipped videos that the warning names


class Library(NamedTuple):
    """A record of the decoded frames of all videos of a folder, one video after the other.

    Attributes:
        frames: uint8, (M, C, H, W), mapped from a file.
        lengths: the number of frames of each video; 0 if it cannot be read.
        broken: why videos cannot be read, by their numbers.
    """

    frames: Tensor
    lengths: list[int]
    broken: dict[int, str]


class VideoFolder(ImageData):
    """A dataset of clips from the videos of a folder: video files, or subfolders of frames.

    Files may be mp4, webm, avi, mov, mkv, m4v or gif, and frames png or jpg.

    The frames are decoded once (files by PyAV), with a progress bar, to 8-bit pixels under ``cache_dir``, which later
    runs map into memory. Unreadable and too short videos are skipped with one warning. A video is first resampled to
    the frames shown at times k / ``frame_rate``; a clip is then frames s, s + ``stride``, ..., s + (``num_frames`` - 1)
    ``stride`` of these, for s = 0, ``hop``, 2 ``hop``, ... The first ``num_val`` usable videos of a fixed permutation
    are held out, so no video has clips in both splits.

    Args:
        path: the folder. With classes it has one subfolder for each; without, videos may lie anywhere in it.
        channels: 1 (grey) or 3 (RGB).
        image_size: H and W: frames are scaled until their shorter side fits, and their centre is cropped.
        num_frames: F.
        frame_rate: frames a second; None for those of the file. Folders of frames have no times, so all frames are
            taken.
        stride: the step between the frames of a clip, in resampled frames.
        hop: the distance between the starts of clips of one video, in resampled frames; None for one clip of each
            video.
        num_classes: the number of classes, which are the subfolders in natural order; None for no labels.
        class_names: the names of the subfolders, to be checked; None for no check.
        levels: must be 256, since pixels are stored as bytes.
        num_val: number of held-out videos.
        cache_dir: the folder in whose subfolder ``videos`` decoded frames are kept.
        batch_size, num_workers, seed, flip, balance, on_device, dequantise: see
            :class:`~diffsweep.datasets.base.ImageData`.

    Raises:
        ValueError: a setting is out of its range, or disagrees with the folder.
    """

    provides = frozenset({"clips"})

    num_frames: int

    def __init__(
        self,
        path: str | None,
        channels: int = 3,
        image_size: int = 64,
        num_frames: int = 16,
        frame_rate: float | None = None,
        stride: int = 1,
        hop: int | None = None,
        num_classes: int | None = None,
        levels: int = LEVELS,
        class_names: Sequence[str] | None = None,
        num_val: int = 16,
        cache_dir: str = "outputs/cache",
        flip: bool = False,
        dequantise: bool = False,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        balance: Balance = "none",
        on_device: OnDevice = "auto",
    ) -> None:
        sizes = (channels, image_size, num_classes, levels)
        super().__init__(*sizes, batch_size, num_workers, seed, flip, num_frames, balance, on_device, dequantise)
        if path is None:
            raise ValueError("dataset.path is missing: give a folder of videos, as in dataset.path=videos")
        self.folder = Path(path).expanduser()
        if not self.folder.is_dir():
            raise ValueError(f"dataset.path={path}: no such folder; give a folder of videos")
        if channels not in MODES:
            raise ValueError(f"dataset.channels of videos is 1 (grey) or 3 (RGB), not {channels}")
        if levels != LEVELS:
            raise ValueError(f"dataset.levels of videos is {LEVELS}: frames are held as bytes; it cannot be changed")
        counts = {"image_size": image_size, "num_frames": num_frames, "stride": stride, "hop": hop, "num_val": num_val}
        for key, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"dataset.{key} must be at least 1, not {count}")
        if frame_rate is not None and not 0 < frame_rate < float("inf"):
            raise ValueError(
                f"dataset.frame_rate is frames a second, above 0, or null for the file's own, not {frame_rate}"
            )
        self.frame_rate, self.stride, self.hop, self.held_out = frame_rate, stride, hop, num_val
        self.cache_dir, self.class_names = Path(cache_dir), class_names
        groups = [self.folder] if num_classes is None else self._classes()
        videos = [(video, label) for label, group in enumerate(groups) for video in find(group)]
        self.videos, self.classes = [video for video, _ in videos], torch.tensor([label for _, label in videos])
        if not videos:
            raise ValueError(f"dataset.path={path}: the folder has no video file and no folder of frames")
        files = [video for video in self.videos if not video.is_dir()]
        if files and importlib.util.find_spec("av") is None:
            raise ValueError(
                f"dataset.path={path}: {files[0].name} needs av to be read; pip install 'diffsweep[video]'"
            )
        self._library: Library | None = None
        self._clips: dict[Split, tuple[Tensor, Tensor]] = {}

    def _classes(self) -> list[Path]:
        """Return the subfolders, one for each class, in natural order.

        Raises:
            ValueError: their number or names differ from ``num_classes`` or ``class_names``.
        """
        entries = [entry for entry in self.folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        folders = sorted(entries, key=natural)
        names = [folder.name for folder in folders]
        found = f"{self.folder} has {len(names)} subfolders: {', '.join(names) or 'none'}"
        if len(names) != self.num_classes:
            raise ValueError(f"dataset.num_classes={self.num_classes} is not the number of classes; {found}")
        if self.class_names is not None and list(self.class_names) != names:
            raise ValueError(
                f"dataset.class_names=[{', '.join(self.class_names)}] are not those of the folder; {found}"
            )
        return folders

    @property
    def library(self) -> Library:
        """Return the frames of all videos, mapped from the cache; one process decodes them if they are not in it.

        Raises:
            ContentError: the cached file is cut short.
        """
        if self._library is None:
            path = self.cache_dir / "videos" / f"{identify(self._content())}.json"
            pixels = path.with_suffix(".bytes")
            make_once(path, lambda: self._decode(pixels, path))
            summary = json.loads(path.read_text())
            shape = (sum(summary["lengths"]), self.channels, self.image_size, self.image_size)
            if not pixels.exists() or pixels.stat().st_size != int(np.prod(shape)):
                raise ContentError(f"{pixels} is cut short; delete {path}, and both are made again")
            mapped = np.memmap(pixels, np.uint8, "c", shape=shape) if shape[0] else np.empty(shape, np.uint8)
            broken = {int(number): reason for number, reason in summary["broken"].items()}
            self._library = Library(torch.from_numpy(np.asarray(mapped)), summary["lengths"], broken)
        return self._library

    def _content(self) -> dict[str, Any]:
        """Return all that the decoded frames depend on, which names their cache file."""
        import PIL

        files = [files_of(video) for video in self.videos]
        decoder = importlib.util.find_spec("av") is not None and not all(video.is_dir() for video in self.videos)
        return {
            "content": content_hash([file for some in files for file in some]),
            "files": [len(some) for some in files],
            "frame_rate": self.frame_rate,
            "shape": [self.channels, self.image_size],
            "pillow": PIL.__version__,
            "av": importlib.metadata.version("av") if decoder else None,
        }

    def _decode(self, pixels: Path, summary: Path) -> None:
        """Write the frames of all videos to one file, and their numbers and the unreadable videos to a JSON file."""
        lengths: list[int] = []
        broken: dict[int, str] = {}

        def write(file: IO[bytes]) -> None:
            enlarged = 0
            for number, video in enumerate(tracked(self.videos, "decoding videos", "video")):
                begin, count = file.tell(), 0
                try:
                    for frame in frames(video, self.frame_rate, self.channels, self.image_size):
                        file.write(frame.pixels.tobytes())
                        count += 1
                    enlarged += frame.enlarged
                except UnusableError as error:
                    file.seek(begin)
                    file.truncate()
                    broken[number], count = str(error), 0
                lengths.append(count)
            if enlarged:
                warnings.warn(
                    f"{enlarged} of {len(self.videos)} videos are smaller than dataset.image_size={self.image_size} "
                    "and were enlarged",
                    stacklevel=2,
                )

        write_atomically(pixels, write)
        write_text(summary, json.dumps({"lengths": lengths, "broken": broken}))  # last: both are whole once it exists

    def _usable(self) -> list[int]:
        """Return the numbers of the videos that are readable and long enough for a clip, and warn of the others.

        Raises:
            ContentError: no video is usable, or no more than ``num_val`` are.
        """
        library, span = self.library, self._span
        lacking = {number: length for number, length in enumerate(library.lengths) if length < span}
        short = {number: f"has {length} of the {span} frames that a clip spans" for number, length in lacking.items()}
        skipped = {**short, **library.broken}
        if skipped:
            named = [f"{os.path.relpath(self.videos[n], self.folder)} ({skipped[n]})" for n in sorted(skipped)[:NAMED]]
            more = f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
            unused = ", ".join(named) + more
            text = f"{len(skipped)} of {len(self.videos)} videos of {self.folder} cannot be used: {unused}"
            if len(skipped) == len(self.videos):
                raise ContentError(f"dataset.path: {text}")
            warnings.warn(shell.one_line(text), stacklevel=2)
        usable = [number for number in range(len(self.videos)) if number not in skipped]
        if len(usable) <= self.held_out:
            raise ContentError(
                f"dataset.num_val={self.held_out} are held out of the {len(usable)} videos of {self.folder} that can be"
                " used; hold out fewer"
            )
        return usable

    @property
    def _span(self) -> int:
        """The number of frames from the first to the last of a clip, both included."""
        return self.stride * (self.num_frames - 1) + 1

    @property
    def clips(self) -> dict[Split, tuple[Tensor, Tensor]]:
        """Return two tensors (N,) for each split: the number of each clip's first frame, and of its video.

        Frames are counted through :attr:`library`, videos through ``videos``.

        Raises:
            ContentError: no video is usable, or no more than ``num_val`` are.
        """
        if not self._clips:
            usable = torch.tensor(self._usable())
            order = usable[fixed_order(len(usable))]
            splits: dict[Split, Tensor] = {"train": order[self.held_out :], "val": order[: self.held_out]}
            ends = [0, *np.cumsum(self.library.lengths).tolist()]
            self._clips = {name: self._clips_of(videos.tolist(), ends) for name, videos in splits.items()}
            train, val = self._clips["train"], self._clips["val"]
            self._clips["all"] = (torch.cat([train[0], val[0]]), torch.cat([train[1], val[1]]))
        return self._clips

    def _clips_of(self, videos: list[int], ends: list[int]) -> tuple[Tensor, Tensor]:
        """Return the first frame and the video of each clip; video i has the frames from ends[i] up to ends[i + 1]."""
        first = [torch.arange(ends[video], ends[video + 1] - self._span + 1, self.hop or ends[-1]) for video in videos]
        return torch.cat(first), torch.tensor(videos).repeat_interleave(torch.tensor([len(some) for some in first]))

    def load(self, split: Split) -> Samples:
        """Return the clips of a split; the videos are decoded first if they are not in the cache.

        Raises:
            ContentError: no video is usable, or no more than ``num_val`` are.
        """
        first, video = self.clips[split]
        parts = {} if self.num_classes is None else {"label": self.classes[video]}
        return ByteClips(self.library.frames, first, parts, self.stride * torch.arange(self.num_frames))

    @property
    def fingerprint(self) -> str:
        """Return a text that is equal for equal data and different otherwise.

        It has the number and size of the clips, and a hash of the videos and of all settings that change a split.
        """
        settings = {
            **self._content(),
            "num_frames": self.num_frames,
            "stride": self.stride,
            "hop": self.hop,
            "num_val": self.held_out,
            "classes": None if self.num_classes is None else self.classes.tolist(),
        }
        size = f"{self.num_frames}x{self.image_size}"
        return f"videos-{len(self.clips['all'][0])}-{size}-{identify(settings)}"
