"""Clips that are longer, or of a higher rate, than those a model was trained on, drawn window by window.

Each window is drawn given frames of earlier windows (Ho et al. 2022, arXiv:2204.03458, section 3.1).
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffsweep.autoencoders import Autoencoder
from diffsweep.diffusion import Condition, Frames, Known
from diffsweep.errors import UserError
from diffsweep.guidance import Guidance, Window, filled
from diffsweep.samplers import Callback, Sampler
from diffsweep.tasks.clips import ClipTask, with_known
from diffsweep.tasks.sampling import Drawn, Job, drawn_by_trajectories
from diffsweep.tasks.sources import load_clips

STRIDE = (
    2**32
)  # window w of clip i has the noise of sample i + 2^32 w: indices have 48 bits, so no two windows share any


class Layout(NamedTuple):
    """The windows in which a long clip is drawn.

    Attributes:
        total_frames: of the long clip.
        given: indices of its frames that are given, int64, (G,).
        plan: the windows that draw the other frames, in their order.
    """

    total_frames: int
    given: Tensor
    plan: list[Window]


class Windowed(ClipTask):
    """A task that draws clips in windows, each a trajectory of the sampler given some frames as a measurement.

    All windows of a clip have its condition. They are drawn in the model's space: given frames are encoded once,
    and a clip is decoded once, when it has all its frames, so that no error of an autoencoder is fed back from
    window to window. In the result the given frames have their original pixels.

    Args:
        source: of clips with given frames, see :func:`~diffsweep.tasks.sources.load_clips`; None if none are given.
        overlap: frames that a window shares with earlier windows; None if :meth:`layout` chooses.
    """

    def __init__(self, source: str | None, overlap: int | None) -> None:
        super().__init__(source)
        if overlap is not None and overlap < 1:
            raise ValueError(
                f"task.overlap must be at least 1, or windows are independent of each other; it is {overlap}"
            )
        self.overlap = overlap

    @abstractmethod
    def layout(self, num_frames: int, given: int) -> Layout:
        """Return the windows of a long clip.

        Args:
            num_frames: of a window.
            given: the number G of given frames.

        Raises:
            ValueError: no windows fit.
        """

    @abstractmethod
    def given(self, clips: Tensor) -> Tensor:
        """Return the given frames (N, C, G, H, W) of clips of the source (N, C, F, H, W)."""

    @abstractmethod
    def show(self, job: Job, x: Tensor, layout: Layout, clips: Tensor | None) -> str:
        """Write the task's pictures of long clips (N, C, F, H, W) and return a line about them.

        Args:
            job: with the folder.
            x: the long clips.
            layout: their windows.
            clips: those of the source; None if no source is given.
        """

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        if reason := super().incompatible_because(space, sampler, guidances):
            return reason
        try:
            self.layout(space.shape[1], 0)
        except ValueError as error:
            return f"windows of the {space.shape[1]} frames of a clip do not fit: {error}"
        return None

    def run(self, job: Job) -> tuple[Drawn, str]:
        model = job.model
        clips = None if self.source is None else load_clips(self.source, job.data, job.num_samples)
        known = None if clips is None else self.given(clips)
        try:
            layout = self.layout(model.autoencoder.shape[1], 0 if known is None else known.shape[2])
        except ValueError as error:
            raise UserError(str(error)) from error
        count = job.num_samples if clips is None else len(clips)

        def make(rows: Tensor, cond: Condition | None, callback: Callback) -> Tensor:
            clip = torch.zeros(
                len(rows), *model.autoencoder.shape_of(layout.total_frames), dtype=model.float_type, device=model.device
            )
            if known is not None:
                clip[:, :, layout.given] = model.autoencoder.encode(known[rows].to(clip))

            def sample_window(frames: Tensor, mask: Tensor, index: int) -> Tensor:
                x, noise = model.start(rows + index * STRIDE, job.seed, num_frames=frames.shape[2])
                held = Known(Frames(mask), frames) if layout.plan[index].known.any() else None
                return model.sample_from(x, noise, with_known(cond, held), callback=callback, decode=False)

            x = model.autoencoder.decode(filled(sample_window, clip, layout.plan)).cpu()
            if known is not None:
                x[:, :, layout.given] = known[rows].to(x)
            return x

        request = job.request(torch.arange(count), self.source)
        drawn = drawn_by_trajectories(model, count, job.batch_size, make, request, trajectories=len(layout.plan))
        return drawn, self.show(job, drawn.x, layout, clips)


def described(plan: Sequence[Window]) -> str:
    """Return in words the number of windows, their frames and their given frames."""
    many = f"{len(plan)} windows" if len(plan) > 1 else "1 window"
    sizes, known = (
        {int(count) for count in counts} for counts in zip(*((len(w.frames), w.known.sum()) for w in plan), strict=True)
    )
    return f"{many} of {_span(sizes)} frames, of which {_span(known)} are given"


def _span(numbers: set[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least}" if least == most else f"{least} to {most}"
