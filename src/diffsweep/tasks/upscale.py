"""The task ``upscale``: clips of a higher resolution."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from diffsweep import pictures
from diffsweep.autoencoders import Autoencoder
from diffsweep.diffusion import Condition, Known, SquareMeans
from diffsweep.guidance import Guidance
from diffsweep.samplers import Callback, Sampler
from diffsweep.tasks.base import KEPT
from diffsweep.tasks.clips import RATE, ClipTask, distance, with_known
from diffsweep.tasks.drawing import Drawn, drawn_by_trajectories, steps_taken
from diffsweep.tasks.sampling import Job
from diffsweep.tasks.showing import sampling_of, show_rows
from diffsweep.tasks.sources import load_clips


class Upscale(ClipTask):
    """A task that draws clips of a higher resolution, given the means of the f x f squares of pixels of each frame.

    ``upscaled.gif`` (and ``.mp4`` if PyAV is installed) shows the low resolution above and the samples below; if not
    all fit, several pages show them, ``upscaled_1.gif`` and so on. ``strip.png`` shows the same of the first four
    clips, frame by frame. With ``source="data"`` both show the true clips as well. The model must diffuse in pixels.

    Args:
        source: ``data``: means of held-out clips, with which the samples are compared; else the path of clips of the
            low resolution: see :func:`~diffsweep.tasks.sources.load_clips`.
        factor: f, the side of a square in pixels, at least 2: the side of the drawn frames over that of the given ones.

    Raises:
        ValueError: the factor is below 2.
    """

    length_key = KEPT

    def __init__(self, source: str = "data", factor: int = 2) -> None:
        super().__init__(source)
        if factor < 2:
            raise ValueError(f"task.factor must be at least 2, not {factor}")
        self.factor, self.measurement = factor, SquareMeans(factor)

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        if reason := super().incompatible_because(space, sampler, guidances):
            return reason
        if not space.bounded:
            return "clips are drawn given means of pixels, and this model draws latents; use a run in pixels"
        if space.shape[-1] % self.factor:
            side = space.shape[-1]
            return f"task.factor={self.factor} does not divide a frame's side of {side} pixels; use a divisor of {side}"
        return None

    def run(self, job: Job) -> tuple[Drawn, str]:
        model = job.model
        assert self.source is not None
        clips = load_clips(self.source, job.data, job.num_samples, 1 if self.source == "data" else self.factor)
        low = self.measurement.apply(clips) if self.source == "data" else clips

        def make(rows: Tensor, cond: Condition | None, callback: Callback) -> Tensor:
            known = low[rows].to(model.device, model.sample_type)
            x, noise = model.start(rows, job.seed, num_frames=known.shape[2])
            return model.sample_from(x, noise, with_known(cond, Known(self.measurement, known)), callback=callback)

        request = job.request(torch.arange(len(low)), self.source)
        steps = steps_taken(model, measured=True)
        drawn = drawn_by_trajectories(model, len(low), job.batch_size, make, request, steps)
        size = drawn.x.shape[-1]
        labels = model.conditioning.described(request)
        sets: list[tuple[str, Tensor, Sequence[str]]] = [
            (f"given, {low.shape[-1]} pixels", self.measurement.pseudo_inverse(low), labels),
            (f"drawn, {size} pixels", drawn.x, ()),
            *([("original", clips, ())] if self.source == "data" else []),
        ]
        title = f"clips upscaled {sampling_of(model)}"
        pages = show_rows(job, sets, "upscaled", title, fps=RATE)
        names, shown, _ = zip(*sets, strict=True)
        strip = pictures.strips(*shown, most=4, names=names, labels=labels, title=f"{title}, frame by frame")
        pictures.save_png(strip, job.folder / "strip.png")
        apart = distance(self.measurement.apply(drawn.x), low)
        line = f"{len(low)} clips of {low.shape[2]} frames from {low.shape[-1]} to {size} pixels, "
        line += f"off from the means by {apart:.1e}{pages}"
        if self.source == "data":
            smooth = functional.interpolate(low, size=drawn.x.shape[2:], mode="trilinear")
            error, plain = distance(drawn.x, clips), distance(smooth, clips)
            line += f"\nroot mean square error {error:.4f} on [-1, 1], of bilinear enlargement {plain:.4f}"
        return drawn, line
