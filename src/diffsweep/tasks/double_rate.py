"""The task ``double_rate``: clips of twice the frame rate."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffsweep import pictures
from diffsweep.guidance import Window, between
from diffsweep.tasks.clips import RATE, distance
from diffsweep.tasks.sampling import Job
from diffsweep.tasks.showing import sampling_of, show_rows
from diffsweep.tasks.windows import Layout, Windowed, described


class DoubleRate(Windowed):
    """A task that makes clips of twice the frame rate: frames 0, 2, 4, ... are given, the others are drawn.

    Clips of N frames become clips of 2 N - 1. ``double_rate.gif`` (and ``.mp4`` if PyAV is installed) shows the given
    frames above, each for two, and all frames below, at twice the rate; more clips than fit have several pages,
    ``double_rate_1.gif`` and so on. ``strip.png`` shows the same of the first four
    clips, frame by frame, with gray in the upper row for frames that are drawn. With ``source="data"`` both show the
    true clips as well.

    A model has learned motion at the rate of its data. Held-out clips, of which every other frame is given, are
    completed at that rate, and the drawn frames are compared with the truth and with the mean of their neighbours.
    Clips that are given or sampled at that rate become clips of twice the rate, which move half as far a frame as
    the data. How well the model draws these depends on the speeds in its data.

    Args:
        source: None: clips as long as those of training are sampled first; ``data``: every other frame of held-out
            clips; else the path of clips, all of whose frames are given: see
            :func:`~diffsweep.tasks.sources.load_clips`.
        overlap: the number of frames that a window, the frames that the model draws at once, shares with earlier
            windows; at least 1.
    """

    length_key = "task.source, clips of N frames, which become 2 N - 1"

    def __init__(self, source: str | None = None, overlap: int = 1) -> None:
        super().__init__(source, overlap)
        self.overlap: int = overlap

    def layout(self, num_frames: int, given: int) -> Layout:
        count = given or num_frames
        if count < 2:
            raise ValueError(f"a clip of {count} frame has no frames in between; give clips of at least 2 frames")
        try:
            plan = between(count, num_frames, self.overlap)
        except ValueError as error:
            raise ValueError(f"task.{error}") from error
        places = torch.arange(0, 2 * count - 1, 2)
        if not given:  # the clip of half the rate is sampled first, as a window of every other frame
            plan = [Window(places, torch.zeros(count, dtype=torch.bool)), *plan]
        return Layout(2 * count - 1, places[:given], plan)

    def given(self, clips: Tensor) -> Tensor:
        return clips[:, :, ::2] if self.source == "data" else clips

    def show(self, job: Job, x: Tensor, layout: Layout, clips: Tensor | None, labels: Sequence[str]) -> str:
        slow, total = x[:, :, ::2], x.shape[2]
        held = slow.repeat_interleave(2, 2)[:, :, :total]
        gaps = torch.zeros_like(x)
        gaps[:, :, ::2] = slow
        truth = [clips[:, :, :total]] if clips is not None and self.source == "data" else []
        names = ["given", "twice the rate", *(["original"] if truth else [])]
        sets = [
            (name, each, labels if each is held else ()) for name, each in zip(names, [held, x, *truth], strict=True)
        ]
        title = f"clips of {total} frames {sampling_of(job.model)}"
        pages = show_rows(job, sets, "double_rate", title, fps=2 * RATE)
        strip = pictures.strips(gaps, x, *truth, most=4, names=names, labels=labels, title=f"{title}, frame by frame")
        pictures.save_png(strip, job.folder / "strip.png")
        line = f"{len(x)} clips of {slow.shape[2]} frames to {total}, in {described(layout.plan)}{pages}"
        if truth:
            drawn, mean = (
                distance(new, truth[0][:, :, 1::2]) for new in (x[:, :, 1::2], (slow[:, :, :-1] + slow[:, :, 1:]) / 2)
            )
            line += (
                f"\nroot mean square error of the new frames {drawn:.4f} on [-1, 1], "
                f"of the mean of their neighbours {mean:.4f}"
            )
        return line
