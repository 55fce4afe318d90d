"""The task ``interpolate``: samples along the great circle between two noises, or between the noises of two images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffsweep import pictures
from diffsweep.autoencoders import Autoencoder
from diffsweep.datasets import rows_of
from diffsweep.diffusion import slerp
from diffsweep.errors import UserError
from diffsweep.guidance import Guidance
from diffsweep.models import ModelParts
from diffsweep.samplers import Sampler
from diffsweep.tasks.base import KEPT, Task, drawn_below_because
from diffsweep.tasks.drawing import Drawn
from diffsweep.tasks.inversion import inverted, not_invertible_because
from diffsweep.tasks.sampling import Job
from diffsweep.tasks.showing import pages_in_words, sampling_of, titled, tracked_pages
from diffsweep.tasks.sources import images_missing_because, load_images

PAIRS = 12  # rows of a page


class Interpolate(Task):
    """A task that samples from noises along the great circle between two (arXiv:2010.02502, section 5.3).

    The two noises are drawn, or are those of two images by DDIM's inversion. Of ``num_samples`` samples as many pairs
    are made as fit, at least one. All samples of a pair have the condition of its first end. ``interpolation.png`` has
    a row for each pair, with the way from the first end to the second, 0 to 1, above it; ``interpolation.gif`` shows
    the pairs as a loop, to and fro. More than twelve pairs have several pages, ``interpolation_1.png`` and so on.

    Args:
        source: None for drawn noises; else images, ``data`` for held-out data or a path: see
            :func:`~diffsweep.tasks.sources.load_images`. The first is paired with the second, the third with the
            fourth and so on; an odd last one is left out.
        frames: the number of samples of a pair, both ends included, at least 2.

    Raises:
        ValueError: frames is below 2.
        UserError: on a run, the source has a single image.
    """

    def __init__(self, source: str | None = None, frames: int = 9) -> None:
        if frames < 2:
            raise ValueError(f"task.frames must be at least 2, for both ends, not {frames}")
        self.source, self.frames = source, frames
        self.length_key = None if source is None else KEPT

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        if self.source is None:
            return "noises are drawn at t = 1; use sampler.start=1, or task.source=data" if sampler.start < 1 else None
        return not_invertible_because(sampler) or images_missing_because(self.source)

    def unsuited_because(self, parts: ModelParts) -> str | None:
        return drawn_below_because(parts)

    def run(self, job: Job) -> tuple[Drawn, str]:
        pairs = max(1, job.num_samples // self.frames)
        request = job.request(2 * torch.arange(pairs), self.source)  # the condition of a row is that of its first end
        if self.source is None:
            ends = job.model.start(torch.arange(2 * pairs), job.seed)[0].cpu()
        else:
            images = load_images(self.source, job.data, 2 * pairs)
            if len(images) < 2:
                raise UserError(f"{self.source} has one image; an interpolation needs two")
            images = images[: len(images) // 2 * 2]
            ends = inverted(job, images, rows_of(request, torch.arange(len(images)) // 2))
        circle = slerp(ends[::2], ends[1::2], torch.linspace(0, 1, self.frames))  # (frames, pairs, ...)
        x = circle.transpose(0, 1).flatten(0, 1)
        drawn = job.draw_from(x, rows_of(request, torch.arange(len(x)) // self.frames))
        frames = drawn.x.unflatten(0, (-1, self.frames))  # (pairs, frames, C, H, W)
        if frames.ndim > 5:
            frames = frames[:, :, :, 0]  # the first frame of each clip
        labels = job.model.conditioning.described(request)[: len(frames)]
        shown = self._show(job, frames, labels, f"interpolations {sampling_of(job.model)}")
        return drawn, f"{len(frames)} interpolations of {self.frames} samples{shown}"

    def _show(self, job: Job, frames: Tensor, labels: Sequence[str], title: str) -> str:
        """Save the pictures of interpolations (pairs, frames, C, H, W), and return the text about their pages."""
        places = [f"{place:.3g}" for place in torch.linspace(0, 1, self.frames).tolist()]
        words = labels or [f"pair {i + 1}" for i in range(len(frames))]

        def row(i: int, first: bool) -> pictures.Row:
            return pictures.Row(frames[i], words[i], places if first else ())

        pages = pictures.pages(len(frames), PAIRS, job.folder / "interpolation", job.pages)
        for page in tracked_pages(pages):
            numbers = range(len(frames))[page.part]
            picture = pictures.sheet([row(i, i == numbers[0]) for i in numbers], titled(title, page))
            pictures.save_png(picture, page.path.with_suffix(".png"))
            forth = [
                pictures.grid(frames[page.part, i], labels=labels[page.part], title=f"{places[i]} of the way")
                for i in range(self.frames)
            ]
            pictures.save_gif(forth + forth[-2:0:-1], page.path.with_suffix(".gif"), milliseconds=120, hold=120)
        return pages_in_words(pages, len(frames))
