"""What ``sample.py`` does with clips of which something is known (Ho et al. 2022, arXiv:2204.03458, section 3.1): clips that are longer, or of a
higher rate, than those a model was trained on are drawn window by window, and each window knows frames that are there already; of a
low-resolution clip the means of squares of pixels are known."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from diffsweep import pictures
from diffsweep.autoencoders import Autoencoder
from diffsweep.diffusion import Condition, Frames, Known, SquareMeans
from diffsweep.errors import UserError
from diffsweep.guidance import Guidance, Window, between, chain, filled, windows
from diffsweep.models import DiffusionModel
from diffsweep.samplers import Callback, Sampler
from diffsweep.tasks.images import KEPT, SHOWN, Task
from diffsweep.tasks.sampling import Drawn, Job, drawn_by_walks
from diffsweep.tasks.sources import load_clips

LONGER = 4  # a long clip has by default so many times the frames of training
OWN = 2**32  # window w of clip i has the noise of sample i + 2^32 w: indices have 48 bits, so no two windows share any
RATE = 8.0  # frames a second of a model's clips, in pictures


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


class Knowing(Task):
    """A task that tells its walks what is known of clips, for guidance to hold.

    Args:
        source: None, or clips: see :func:`load_clips`.
    """

    def __init__(self, source: str | None) -> None:
        self.source = source

    def unfit(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        if len(space.shape) != 4:
            return "is of clips, and this model makes images; use a run of model=video"
        if sampler.start < 1:
            return f"starts its walks with noise alone, and sampler.start={sampler.start:g} has something of the data; use sampler.start=1"
        if not any(guidance.takes_measurement for guidance in guidances):
            free = any(guidance.needs_null for guidance in guidances)
            fix = "guidance=reconstruction_free" if free else "guidance=reconstruction, or replacement"
            return f"tells the walk what is known of a clip, and this guidance does not hold it; use {fix}"
        return None

    def require_fit(self, model: DiffusionModel) -> None:
        """Refuse a model that no rule has looked at, as from Python.

        Raises:
            UserError: see :meth:`unfit`.
        """
        if told := self.unfit(model.autoencoder, model.sampler, chain(model.guided(model.sampler))):
            raise UserError(f"this task {told}")


class Windowed(Knowing):
    """Clips in windows, each of them one walk, whose known frames guidance holds. The condition of a clip is that of all its windows.

    Everything happens in the space: known frames are encoded once, and a clip is decoded once, when it has all its frames. So no error
    of an autoencoder is fed back from window to window. Given frames are in the end what they were in pixels.

    Args:
        source: None, or clips: see :func:`load_clips`.
        overlap: frames that a window shares with those made before it; None where :meth:`layout` knows how many.
    """

    def __init__(self, source: str | None, overlap: int | None) -> None:
        super().__init__(source)
        if overlap is not None and overlap < 1:
            raise ValueError(f"task.overlap must be at least 1, or windows know nothing of each other; it is {overlap}")
        self.overlap = overlap

    @abstractmethod
    def layout(self, num_frames: int, given: int) -> Layout:
        """How a clip of which so many frames are given becomes a long one.

        Args:
            num_frames: of a window.
            given: G, 0 where nothing is.

        Raises:
            ValueError: it cannot.
        """

    @abstractmethod
    def given(self, clips: Tensor) -> Tensor:
        """What is known of clips of the source (N, C, F, H, W): (N, C, G, H, W)."""

    @abstractmethod
    def show(self, job: Job, x: Tensor, layout: Layout, clips: Tensor | None) -> str:
        """Write the task's pictures of long clips (N, C, F, H, W) and say what was done.

        Args:
            job: where to.
            x: the long clips.
            layout: how they came about.
            clips: those of the source; None where there are none.
        """

    def unfit(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        if told := super().unfit(space, sampler, guidances):
            return told
        try:
            self.layout(space.shape[1], 0)
        except ValueError as error:
            return f"does not suit clips of {space.shape[1]} frames: {error}"
        return None

    def __call__(self, job: Job) -> tuple[Drawn, str]:
        self.require_fit(model := job.model)
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
                return model.walk(x, noise, _given(cond, held), callback=callback, decode=False)

            x = model.autoencoder.decode(filled(sample_window, clip, layout.plan)).cpu()
            if known is not None:
                x[:, :, layout.given] = known[rows].to(x)
            return x

        asked = job.asked(torch.arange(count), self.source)
        drawn = drawn_by_walks(model, count, job.batch_size, make, asked, walks=len(layout.plan))
        return drawn, self.show(job, drawn.x, layout, clips)


class Extend(Windowed):
    """Longer clips, block by block: the last frames of what is there are known to the next window. ``grid.gif`` (and ``.mp4`` where PyAV is
    installed): the clips; ``strip.png``: the first of them, frame by frame.

    Args:
        source: None: the first window is sampled with nothing known, and is the sample that ``task=generate`` has; else clips, whose frames
            are all kept: see :func:`load_clips`.
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
        return f"{len(x)} clips of {x.shape[2]} frames{begun}, in {_told(layout.plan)}"


class DoubleRate(Windowed):
    """Clips of twice the frame rate: frames 0, 2, 4, ... are known, those between them are drawn. ``double_rate.gif`` (and ``.mp4`` where
    PyAV is installed): what is known above, each frame for two, and all frames below, at twice the rate; ``strip.png``: the same of the
    first clips, frame by frame, with gray where nothing is known.

    A model knows motion at the rate of its data. So held-out clips, of which it is told every other frame, come out at that rate, and the
    frames between are compared with the truth and with the mean of their neighbours. Clips that are given, or sampled, at that rate come out at
    twice the rate, and move half as far a frame as the data: whether the model draws that well depends on what it has seen.

    Args:
        source: None: clips as long as those of training are sampled first; ``data``: every other frame of held-out clips; else clips, all of
            whose frames are known: see :func:`load_clips`.
        overlap: frames that a window shares with those made before it.
    """

    length_key = "task.source, clips of N frames, which become 2 N - 1"

    def __init__(self, source: str | None = None, overlap: int = 1) -> None:
        super().__init__(source, overlap)
        self.overlap: int = overlap

    def layout(self, num_frames: int, given: int) -> Layout:
        count = given or num_frames
        if count < 2:
            raise ValueError(
                f"a clip with {count} known frame has nothing between its frames; from 2 known frames on there is"
            )
        try:
            plan = between(count, num_frames, self.overlap)
        except ValueError as error:
            raise ValueError(f"task.{error}") from error
        places = torch.arange(0, 2 * count - 1, 2)
        if not given:  # the slow clip is a window of its own, of every other frame
            plan = [Window(places, torch.zeros(count, dtype=torch.bool)), *plan]
        return Layout(2 * count - 1, places[:given], plan)

    def given(self, clips: Tensor) -> Tensor:
        return clips[:, :, ::2] if self.source == "data" else clips

    def show(self, job: Job, x: Tensor, layout: Layout, clips: Tensor | None) -> str:
        slow, total = x[:, :, ::2], x.shape[2]
        held = slow.repeat_interleave(2, 2)[:, :, :total]
        gaps = torch.zeros_like(x)
        gaps[:, :, ::2] = slow
        truth = [clips[:, :, :total]] if clips is not None and self.source == "data" else []
        pictures.save_shown(pictures.rows, [held, x, *truth], job.folder / "double_rate", fps=2 * RATE)
        pictures.save_png(pictures.strips(gaps, x, *truth, most=4), job.folder / "strip.png")
        said = f"{len(x)} clips of {slow.shape[2]} frames to {total}, in {_told(layout.plan)}"
        if truth:
            drawn, mean = (
                _distance(new, truth[0][:, :, 1::2]) for new in (x[:, :, 1::2], (slow[:, :, :-1] + slow[:, :, 1:]) / 2)
            )
            said += f"\nroot mean square error of the new frames {drawn:.4f} on [-1, 1], of the mean of their neighbours {mean:.4f}"
        return said


class Upscale(Knowing):
    """Clips of a higher resolution: what is known of each frame is the means of its squares of pixels. ``upscaled.gif`` (and ``.mp4`` where PyAV
    is installed): what is known above, what became of it below; ``strip.png``: the same of the first clips, frame by frame.

    Args:
        source: ``data``: means of held-out clips, which the clips are compared with; else clips of the low resolution: see
            :func:`load_clips`.
        factor: f, the side of a square.
    """

    length_key = KEPT

    def __init__(self, source: str = "data", factor: int = 2) -> None:
        super().__init__(source)
        if factor < 2:
            raise ValueError(f"task.factor must be at least 2, not {factor}")
        self.factor, self.measurement = factor, SquareMeans(factor)

    def unfit(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        if told := super().unfit(space, sampler, guidances):
            return told
        if not space.bounded:
            return "knows means of pixels, and this model draws latents, whose means are others; use a run in pixels"
        if space.shape[-1] % self.factor:
            return (
                f"has task.factor={self.factor}, which does not divide the {space.shape[-1]} pixels of a frame's side"
            )
        return None

    def __call__(self, job: Job) -> tuple[Drawn, str]:
        self.require_fit(model := job.model)
        assert self.source is not None
        clips = load_clips(self.source, job.data, job.num_samples, 1 if self.source == "data" else self.factor)
        low = self.measurement.apply(clips) if self.source == "data" else clips

        def make(rows: Tensor, cond: Condition | None, callback: Callback) -> Tensor:
            known = low[rows].to(model.device, model.float_type)
            x, noise = model.start(rows, job.seed, num_frames=known.shape[2])
            return model.walk(x, noise, _given(cond, Known(self.measurement, known)), callback=callback)

        asked = job.asked(torch.arange(len(low)), self.source)
        drawn = drawn_by_walks(model, len(low), job.batch_size, make, asked)
        size = drawn.x.shape[-1]
        shown = [self.measurement.pseudo_inverse(low), drawn.x, *([clips] if self.source == "data" else [])]
        pictures.save_shown(pictures.rows, shown, job.folder / "upscaled", fps=RATE)
        pictures.save_png(pictures.strips(*shown, most=4), job.folder / "strip.png")
        apart = _distance(self.measurement.apply(drawn.x), low)
        said = f"{len(low)} clips of {low.shape[2]} frames from {low.shape[-1]} to {size} pixels, off from what is known by {apart:.1e}"
        if self.source == "data":
            smooth = functional.interpolate(low, size=drawn.x.shape[2:], mode="trilinear")
            error, plain = _distance(drawn.x, clips), _distance(smooth, clips)
            said += f"\nroot mean square error {error:.4f} on [-1, 1], of bilinear enlargement {plain:.4f}"
        return drawn, said


def _given(cond: Condition | None, known: Known | None) -> Condition | None:
    """Return the condition with what is known of its samples, where anything is."""
    return cond if known is None else replace(Condition() if cond is None else cond, known=known)


def _told(plan: Sequence[Window]) -> str:
    """How many windows, and how many frames each has and knows, in words."""
    many = f"{len(plan)} windows" if len(plan) > 1 else "1 window"
    sizes, known = (
        {int(count) for count in counts} for counts in zip(*((len(w.frames), w.known.sum()) for w in plan), strict=True)
    )
    return f"{many} of {_span(sizes)} frames that know {_span(known)}"


def _span(numbers: set[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least}" if least == most else f"{least} to {most}"


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())
