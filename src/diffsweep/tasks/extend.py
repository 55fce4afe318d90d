"""The task ``extend``: longer clips, window by window."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffsweep import pictures
from diffsweep.guidance import windows
from diffsweep.tasks.clips import RATE
from diffsweep.tasks.sampling import Job
from diffsweep.tasks.showing import sampling_of, show_grid
from diffsweep.tasks.windows import Layout, Windowed, described

LONGER = 4  # by default a long clip has 4 times the frames of training


class Extend(Windowed):
    """A task that draws longer clips, window by window: each window is given the last frames of the clip so far.

    A window has as many frames as the clips that the model was trained on. ``grid.gif`` (and ``.mp4`` if PyAV is
    installed) shows the clips, 100 a page; ``strip.png`` the first eight of them frame by frame.

    Args:
        source: how the clips begin. None: the first window is sampled without given frames and equals the sample of
            ``task=generate``; else ``data`` (held-out clips) or a path, with all frames of these clips kept: see
            :func:`~diffsweep.tasks.sources.load_clips`.
        total_frames: the number of frames of the long clips, at least 2; None for four times those of training.
        overlap: the number of given frames of a window, at least 1; None for half of its frames.
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

    def show(self, job: Job, x: Tensor, layout: Layout, clips: Tensor | None, labels: Sequence[str]) -> str:
        title = f"clips of {x.shape[2]} frames {sampling_of(job.model)}"
        pages = show_grid(job, x, labels, "grid", title, fps=RATE)
        strip = pictures.strips(x, labels=labels, title=f"{title}, frame by frame")
        pictures.save_png(strip, job.folder / "strip.png")
        begun = "" if clips is None else f", of which {clips.shape[2]} are given"
        return f"{len(x)} clips of {x.shape[2]} frames{begun}, in {described(layout.plan)}{pages}"
