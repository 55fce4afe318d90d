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
from diffsweep.tasks.drawing import Drawn, drawn_by_trajectories, steps_taken
from diffsweep.tasks.sampling import Job
from diffsweep.tasks.sources import load_clips

STRIDE = (
    2**32
)  # window w of clip i has the noise of sample i + 2^32 w: indices have 48 bits, so no two windows share any


class Layout(NamedTuple):
    """The plan by which a long clip is drawn, window by window, by a model of clips of fewer frames.

    Attributes:
        total_frames: the number of frames of the long clip.
        given: the indices of its frames that are given, int64, (G,).
        plan: the windows that draw the other frames, in the order of sampling.
    """

    total_frames: int
    given: Tensor
    plan: list[Window]


class Windowed(ClipTask):
    """A task that draws long clips in windows: frames that the model draws at once, given frames drawn before.

    A subclass defines which windows (:meth:`layout`), which frames are given (:meth:`given`) and the pictures
    (:meth:`show`). Each window is one run of the sampler, with the frames known by then as a measurement for guidance.
    All windows of a clip have its condition. They are drawn in the space that the model diffuses in: given frames are
    encoded once, and a clip is decoded once, when it has all its frames, so that no error of an autoencoder is fed back
    from window to window. In the result the given frames have their original pixels.

    Args:
        source: where clips with given frames come from: ``data`` for held-out data of the model, or a path: see
            :func:`~diffsweep.tasks.sources.load_clips`. None if no frames are given.
        overlap: the number of frames that a window shares with earlier windows, at least 1; None if :meth:`layout`
            chooses.

    Raises:
        ValueError: the overlap is below 1.
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
        """Return the plan of a long clip: its number of frames, which of them are given, and its windows.

        Subclasses define it.

        Args:
            num_frames: the number of frames of a window, that of the clips the model was trained on.
            given: the number G of given frames; 0 if no clips are given.

        Raises:
            ValueError: no windows fit the options of the task, such as its overlap.
        """

    @abstractmethod
    def given(self, clips: Tensor) -> Tensor:
        """Return the frames of the source's clips (N, C, F, H, W) that the task keeps as given, (N, C, G, H, W).

        Subclasses define it: all frames, or every other one, for example.
        """

    @abstractmethod
    def show(self, job: Job, x: Tensor, layout: Layout, clips: Tensor | None, labels: Sequence[str]) -> str:
        """Write the task's pictures of the drawn clips into ``job.folder``, and return a text about them to print.

        Subclasses define it; their docstrings name the pictures.

        Args:
            job: the job of the task, of which the folder matters here.
            x: the long clips, in [-1, 1], (N, C, F, H, W).
            layout: the plan by which they were drawn.
            clips: the clips of the source from which frames were given, (N, C, F', H, W); None without a source.
            labels: the class or caption of each clip in words; empty for a model without conditions.
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
                len(rows),
                *model.autoencoder.shape_of(layout.total_frames),
                dtype=model.sample_type,
                device=model.device,
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
        steps = sum(steps_taken(model, measured=bool(window.known.any())) for window in layout.plan)
        drawn = drawn_by_trajectories(model, count, job.batch_size, make, request, steps)
        return drawn, self.show(job, drawn.x, layout, clips, model.conditioning.described(request))


def described(plan: Sequence[Window]) -> str:
    """Return in words the number of windows, their frames and known frames: ``7 windows of 16 frames, of ...``."""
    many = f"{len(plan)} windows" if len(plan) > 1 else "1 window"
    sizes, known = (
        {int(count) for count in counts} for counts in zip(*((len(w.frames), w.known.sum()) for w in plan), strict=True)
    )
    return f"{many} of {_span(sizes)} frames, of which {_span(known)} are given"


def _span(numbers: set[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least}" if least == most else f"{least} to {most}"
