"""Clips that are longer, or of a higher rate, than those a model was trained on: drawn window by window, and each window knows frames that are
there already (Ho et al. 2022, arXiv:2204.03458, section 3.1)."""

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

OWN = 2**32  # window w of clip i has the noise of sample i + 2^32 w: indices have 48 bits, so no two windows share any


class Layout(NamedTuple):
    """How a long clip comes about.

    Attributes:
        total_frames: of the long clip.
        given: which of its frames are there at first, int64, (G,).
        plan: the windows that draw the others, in their order.
    """

    total_frames: int
    given: Tensor
    plan: list[Window]


class Windowed(ClipTask):
    """Clips in windows, each of them one walk, whose known frames guidance holds. The condition of a clip is that of all its windows.

    Everything happens in the space: known frames are encoded once, and a clip is decoded once, when it has all its frames. So no error
    of an autoencoder is fed back from window to window. Given frames are in the end what they were in pixels.

    Args:
        source: None, or clips: see :func:`~diffsweep.tasks.sources.load_clips`.
        overlap: frames that a window shares with those made before it; None where :meth:`layout` knows how many.
    """

    def __init__(self, source: str | None, overlap: int | None) -> None:
        super().__init__(source)
        if overlap is not None and overlap < 1:
            raise ValueError(f"task.overlap must be at least 1, or windows know nothing of each other; it is {overlap}")
        self.overlap = overlap

    @abstractmethod
    def layout(self, num_frames: int, given: int) -> Layout:
        """Return how a clip of which so many frames are given becomes a long one.

        Args:
            num_frames: of a window.
            given: G, 0 where nothing is.

        Raises:
            ValueError: it cannot.
        """

    @abstractmethod
    def given(self, clips: Tensor) -> Tensor:
        """Return the known frames (N, C, G, H, W) of clips of the source (N, C, F, H, W)."""

    @abstractmethod
    def show(self, job: Job, x: Tensor, layout: Layout, clips: Tensor | None) -> str:
        """Write the task's pictures of long clips (N, C, F, H, W) and return a line about them.

        Args:
            job: where to.
            x: the long clips.
            layout: how they came about.
            clips: those of the source; None where there are none.
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

            def sample_window(there: Tensor, mask: Tensor, index: int) -> Tensor:
                x, noise = model.start(rows + index * OWN, job.seed, num_frames=there.shape[2])
                held = Known(Frames(mask), there) if layout.plan[index].known.any() else None
                return model.sample_from(x, noise, with_known(cond, held), callback=callback, decode=False)

            x = model.autoencoder.decode(filled(sample_window, clip, layout.plan)).cpu()
            if known is not None:
                x[:, :, layout.given] = known[rows].to(x)
            return x

        request = job.request(torch.arange(count), self.source)
        drawn = drawn_by_trajectories(model, count, job.batch_size, make, request, trajectories=len(layout.plan))
        return drawn, self.show(job, drawn.x, layout, clips)


def described(plan: Sequence[Window]) -> str:
    """Return in words how many windows there are, and how many frames each has and knows."""
    many = f"{len(plan)} windows" if len(plan) > 1 else "1 window"
    sizes, known = (
        {int(count) for count in counts} for counts in zip(*((len(w.frames), w.known.sum()) for w in plan), strict=True)
    )
    return f"{many} of {_span(sizes)} frames that know {_span(known)}"


def _span(numbers: set[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least}" if least == most else f"{least} to {most}"
