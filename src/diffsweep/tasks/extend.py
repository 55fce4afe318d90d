"""Longer clips, block by block."""

import torch
from torch import Tensor

from diffsweep import pictures
from diffsweep.guidance import windows
from diffsweep.tasks.base import SHOWN
from diffsweep.tasks.clips import RATE
from diffsweep.tasks.sampling import Job
from diffsweep.tasks.windows import Layout, Windowed, described

LONGER = 4  # a long clip has by default so many times the frames of training


class Extend(Windowed):
    """Longer clips, block by block: the last frames of what is there are known to the next window. ``grid.gif`` (and ``.mp4`` where PyAV is
    installed): the clips; ``strip.png``: the first of them, frame by frame.

    Args:
        source: None: the first window is sampled with nothing known, and is the sample that ``task=generate`` has; else clips, whose frames
            are all kept: see :func:`~diffsweep.tasks.sources.load_clips`.
        total_frames: of the long clips; None for four times those of training.
        overlap: frames of a window that are known; None for half of them.
    """

    length_key = "task.total_frames"

    def __init__(self, source: str | None = None, total_frames: int | None = None, overlap: int | None = None) -> None:
        super().__init__(source, overlap)
        if total_frames is not None and total_frames < 2:
            raise ValueError(f"task.total_frames must be at least 2, not {total_frames}")
        self.total_frames = total_frames

    def layout(self, num_frames: int, given: int) -> Layout:
        total = self.total_frames or LONGER * num_frames
        overlap = self.overlap or max(1, num_frames // 2)
        try:
            plan = windows(total, num_frames, overlap, given)
        except ValueError as error:
            raise ValueError(f"task.{error}") from error
        return Layout(total, torch.arange(given), plan)

    def given(self, clips: Tensor) -> Tensor:
        return clips

    def show(self, job: Job, x: Tensor, layout: Layout, clips: Tensor | None) -> str:
        pictures.save_shown(pictures.grid, [x[:SHOWN]], job.folder / "grid", fps=RATE)
        pictures.save_png(pictures.strips(x), job.folder / "strip.png")
        begun = "" if clips is None else f", of which {clips.shape[2]} are given"
        return f"{len(x)} clips of {x.shape[2]} frames{begun}, in {described(layout.plan)}"
