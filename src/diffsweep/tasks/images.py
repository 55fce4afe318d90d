"""What ``sample.py`` does with a trained model: generates, edits, reconstructs, interpolates."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from diffsweep import pictures
from diffsweep.autoencoders import Autoencoder
from diffsweep.datasets import Batch, rows_of
from diffsweep.diffusion import slerp
from diffsweep.errors import UserError
from diffsweep.guidance import Guidance
from diffsweep.samplers import DDIM, Sampler
from diffsweep.tasks.sampling import Drawn, Job, drawn_in_batches, trajectory
from diffsweep.tasks.sources import load_images

SHOWN = 100  # of so many samples there is a picture
KEPT = "task.source, whose clips keep their frames"


class Task(ABC):
    """A use of a model. It draws samples, writes pictures into a folder and says what it did.

    Attributes:
        length_key: what says how many frames the clips get, where ``num_frames`` does not.
    """

    length_key: str | None = None

    def unfit(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        """Why the task cannot be done with a model, and what to use, in words that follow the task's name; None where it can.

        Args:
            space: where the model diffuses.
            sampler: that walks.
            guidances: of the walk, from the outermost in.
        """
        return None

    @abstractmethod
    def __call__(self, job: Job) -> tuple[Drawn, str]:
        """The samples, and a line about them."""


class Generate(Task):
    """New samples from noise: ``grid.png`` and the walk as ``trajectory.gif``.

    Args:
        seeds: one sample of each seed, in place of ``num_samples`` under one; it is the one that ``num_samples=1`` has.
    """

    def __init__(self, seeds: list[int] | None = None) -> None:
        self.seeds = seeds

    def __call__(self, job: Job) -> tuple[Drawn, str]:
        if job.model.sampler.start < 1:
            raise UserError(
                f"a walk from sampler.start={job.model.sampler.start} begins with images and some noise; use task=edit, or "
                "sampler.start=1"
            )
        keys: int | Tensor = job.seed
        indices = torch.arange(job.num_samples)
        if self.seeds is not None:
            keys, indices = torch.tensor(self.seeds), torch.zeros(len(self.seeds), dtype=torch.int64)
        drawn = drawn_in_batches(
            job.model,
            len(indices),
            job.batch_size,
            lambda rows: job.model.start(indices[rows], _of(keys, rows)),
            job.asked(indices),
        )
        pictures.save_shown(pictures.grid, [drawn.x[:SHOWN]], job.folder / "grid")
        trajectory(job.model, job.data, job.folder / "trajectory.gif", _of(keys, slice(16)), indices[:16])
        return drawn, f"{len(drawn.x)} samples"


class Edit(Task):
    """SDEdit (Meng et al. 2022, arXiv:2108.01073): images get the noise of ``sampler.start`` and are walked back. The less noise, the nearer
    to the image. ``edit.png``: images above, what became of them below.

    Args:
        source: see :func:`load_images`.
    """

    length_key = KEPT

    def __init__(self, source: str = "data") -> None:
        self.source = source

    def __call__(self, job: Job) -> tuple[Drawn, str]:
        if job.model.sampler.start == 1:
            raise UserError(
                "from sampler.start=1 nothing of an image is left; use sampler.start=0.6, or another time below 1"
            )
        images = load_images(self.source, job.data, job.num_samples)
        drawn = drawn_in_batches(
            job.model,
            len(images),
            job.batch_size,
            lambda rows: job.model.start(torch.arange(len(images))[rows], job.seed, source=images[rows]),
            job.asked(torch.arange(len(images))),
        )
        pictures.save_shown(pictures.rows, [images, drawn.x], job.folder / "edit")
        return drawn, f"{len(images)} images edited from t = {job.model.sampler.start:g}"


class Reconstruct(Task):
    """DDIM's inversion of images to their noise, and the walk back (arXiv:2010.02502, section 5.4). ``reconstruction.png``: images, their
    noise, and what comes back.

    Args:
        source: see :func:`load_images`.
    """

    length_key = KEPT

    def __init__(self, source: str = "data") -> None:
        self.source = source

    def __call__(self, job: Job) -> tuple[Drawn, str]:
        images = load_images(self.source, job.data, job.num_samples)
        asked = job.asked(torch.arange(len(images)), self.source)
        noises = inverted(job, images, asked)
        drawn = drawn_in_batches(
            job.model,
            len(images),
            job.batch_size,
            lambda rows: (noises[rows], job.model.noise_of(rows, job.seed)),
            asked,
        )
        shown = job.model.autoencoder.decode(noises[:SHOWN].to(job.model.device)).cpu() / 2
        pictures.save_shown(pictures.rows, [images, shown, drawn.x], job.folder / "reconstruction")
        error = (drawn.x - images).square().mean().sqrt()
        return drawn, f"{len(images)} images inverted and reconstructed, root mean square error {error:.4f} on [-1, 1]"


class Interpolate(Task):
    """A row of samples on the great circle between two noises, or between the noises of two images by DDIM's inversion
    (arXiv:2010.02502, section 5.3). ``interpolation.png``: a row for each pair; ``interpolation.gif``: all of them, to and fro.

    Args:
        source: None for noises; else images, see :func:`load_images`, the first with the second, the third with the fourth.
        frames: samples of a row, ends included.
    """

    def __init__(self, source: str | None = None, frames: int = 9) -> None:
        if frames < 2:
            raise ValueError(f"task.frames must be at least 2, the ends, not {frames}")
        self.source, self.frames = source, frames
        self.length_key = None if source is None else KEPT

    def __call__(self, job: Job) -> tuple[Drawn, str]:
        pairs = max(1, job.num_samples // self.frames)
        asked = job.asked(2 * torch.arange(pairs), self.source)  # a row is asked for what its first end is
        if self.source is None:
            if job.model.sampler.start < 1:
                raise UserError("noises are those of t = 1; use sampler.start=1, or task.source=data")
            ends = job.model.start(torch.arange(2 * pairs), job.seed)[0].cpu()
        else:
            images = load_images(self.source, job.data, 2 * pairs)
            if len(images) < 2:
                raise UserError(f"{self.source} has one image; an interpolation needs two")
            images = images[: len(images) // 2 * 2]
            ends = inverted(job, images, rows_of(asked, torch.arange(len(images)) // 2))
        circle = slerp(ends[::2], ends[1::2], torch.linspace(0, 1, self.frames))  # (frames, pairs, ...)
        x = circle.transpose(0, 1).flatten(0, 1)
        drawn = drawn_in_batches(
            job.model,
            len(x),
            job.batch_size,
            lambda rows: (x[rows], job.model.noise_of(rows, job.seed)),
            rows_of(asked, torch.arange(len(x)) // self.frames),
        )
        frames = drawn.x.unflatten(0, (-1, self.frames))  # (pairs, frames, C, H, W)
        if frames.ndim > 5:
            frames = frames[:, :, :, 0]  # of clips the first frame
        pictures.save_png(pictures.rows(*frames.transpose(0, 1), across=True), job.folder / "interpolation.png")
        there = [pictures.grid(frames[:, i]) for i in range(self.frames)]
        pictures.save_gif(there + there[-2:0:-1], job.folder / "interpolation.gif", milliseconds=120, hold=120)
        return drawn, f"{len(frames)} interpolations of {self.frames} samples"


def inverted(job: Job, images: Tensor, asked: Batch) -> Tensor:
    """The noise of images under the model's sampler, in the space, on the CPU, each under what is asked of it.

    Raises:
        UserError: its walk cannot be inverted.
    """
    model = job.model
    if not isinstance(model.sampler, DDIM) or model.sampler.order is None:
        raise UserError("only DDIM's deterministic walk is inverted; use sampler=ddim with sampler.eta=0")
    batches = torch.arange(len(images)).split(job.batch_size)
    return torch.cat([model.invert(images[rows], model.told(rows_of(asked, rows))).cpu() for rows in batches])


def _of(keys: int | Tensor, rows: slice | Tensor) -> int | Tensor:
    return keys[rows] if isinstance(keys, Tensor) else keys
