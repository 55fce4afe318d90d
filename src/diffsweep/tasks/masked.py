"""The base class of tasks that keep a part of images and draw the rest."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from diffsweep.autoencoders import Autoencoder
from diffsweep.conditioning import ImageConditioning
from diffsweep.datasets import Batch, rows_of
from diffsweep.degradations import Degradation
from diffsweep.diffusion import Condition, Known, Noise, Pasted, PixelMask
from diffsweep.guidance import Guidance
from diffsweep.models import DiffusionModel, ModelParts
from diffsweep.samplers import Callback, Sampler
from diffsweep.tasks.base import FromImages
from diffsweep.tasks.drawing import Drawn, drawn_by_trajectories, steps_taken
from diffsweep.tasks.masks import Masks, known_in, mask_of, not_guided_because
from diffsweep.tasks.sampling import Job
from diffsweep.tasks.showing import show_rows


class MaskedImages(NamedTuple):
    """Images, and which of their pixels are known.

    Attributes:
        images: (N, C, H, W) in [-1, 1], on the CPU.
        known: bool, (N, 1, H, W).
    """

    images: Tensor
    known: Tensor


class MaskedTask(FromImages):
    """A task of ``sample.py`` that keeps the known pixels of images and draws the others.

    Guidance keeps the samples consistent with the known pixels while they are drawn (RePaint, replacement,
    reconstruction), or the network reads masked images as its condition. At the end the known pixels are pasted into
    the samples, so they are those of the image to the bit unless a seam is blended. In latents a cell is known if all
    its pixels are.

    Args:
        source: where the images come from: ``data`` for held-out data of the model, or a path: see
            :func:`~diffsweep.tasks.sources.load_images`.
        mask: the path of an image of the size of the model's, white where pixels are to be filled and black where they
            are known; ``degradation`` for masks that the group ``degradation`` draws; None for no mask.
        seam: the number of known pixels beside hidden ones over which image and sample are blended; 0 for none.
        degradation: what the group ``degradation`` describes.

    Raises:
        ValueError: a negative ``seam``, or one without a mask.
    """

    def __init__(
        self, source: str = "data", mask: str | None = None, seam: int = 0, degradation: Degradation | None = None
    ) -> None:
        super().__init__(source)
        if seam < 0:
            raise ValueError(f"task.seam is a number of pixels, at least 0, not {seam}")
        if seam and mask is None:
            raise ValueError(f"task.seam={seam} blends along the edge of a mask; set task.mask, or leave it at 0")
        self.masks, self.seam = None if mask is None else Masks(mask, degradation), seam

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        if self.masks is not None and len(space.shape) != 3:
            return "masks are of images, and this model makes clips; use a run of images"
        return super().incompatible_because(space, sampler, guidances)

    def unsuited_because(self, parts: ModelParts) -> str | None:
        if (reason := super().unsuited_because(parts)) or self.masks is None:
            return reason
        return self.masks.missing_because(parts.data) or not_guided_because(parts.conditioning, parts.guidances)

    def request(self, job: Job, part: MaskedImages, source: str | None = None) -> Batch:
        """Return the request for samples: a batch without ``x``, which states what they are to show.

        For a network that reads masked images it has these, else the labels or captions of the model's conditioning.

        Args:
            job: the job of the task.
            part: the images and their known pixels.
            source: ``data`` for the labels or captions of the held-out images: see
                :meth:`~diffsweep.tasks.sampling.Job.request`.
        """
        conditioning, indices = job.model.conditioning, torch.arange(len(part.images))
        if not isinstance(conditioning, ImageConditioning):
            return job.request(indices, source)
        mask = mask_of(conditioning.degradation)
        assert mask is not None
        return conditioning.given(mask.picture(Known(PixelMask(part.known), part.images)), None, indices)

    def begun(
        self, model: DiffusionModel, rows: Tensor, seed: int, images: Tensor, cond: Condition | None
    ) -> tuple[Tensor, Noise]:
        """Return the states from which some samples start, and the noise of their steps; by default from noise alone.

        Args:
            model: the model.
            rows: the numbers of the samples, int64 (B,).
            seed: the seed of their noise.
            images: the images x_0 of these samples, (B, C, H, W), from which a subclass can start.
            cond: the condition of each sample.
        """
        return model.start(rows, seed)

    def draw(self, job: Job, part: MaskedImages, request: Batch) -> Drawn:
        """Return the samples, drawn in batches given the known pixels, which are pasted in at the end.

        Args:
            job: the job of the task.
            part: the images and their known pixels.
            request: see :meth:`request`.
        """
        model = job.model

        def make(rows: Tensor, cond: Condition | None, callback: Callback) -> Tensor:
            start, given = self._begun(job, part, rows, cond)
            return model.sample_from(*start, given, callback=callback)

        steps = steps_taken(model, measured=True)
        return drawn_by_trajectories(model, len(part.images), job.batch_size, make, request, steps)

    def start(self, job: Job, part: MaskedImages, request: Batch, count: int) -> tuple[tuple[Tensor, Noise], Condition]:
        """Return the states and the noise from which the first samples start, and their condition."""
        rows = torch.arange(min(count, len(part.images)))
        return self._begun(job, part, rows, job.model.condition_of(rows_of(request, rows)))

    def _begun(
        self, job: Job, part: MaskedImages, rows: Tensor, cond: Condition | None
    ) -> tuple[tuple[Tensor, Noise], Condition]:
        """Return the states and the noise from which some samples start, and their condition with the known pixels."""
        model = job.model
        images, known = (each[rows].to(model.device) for each in part)
        x, noise = self.begun(model, rows, job.seed, images, cond)
        pasted = Pasted(Known(PixelMask(known), images.to(x)), self.seam)
        of_x = known_in(model.autoencoder, images.to(x), known)
        return (x, noise), replace(Condition() if cond is None else cond, known=of_x, pasted=pasted)

    def show(self, job: Job, part: MaskedImages, drawn: Drawn, name: str, title: str, own: Sequence[str]) -> str:
        """Save pictures with four rows: the images, what is known of them, the results, and the differences.

        Hidden pixels are grey in the second row. The last row is half of result less image, so grey where both agree.

        Args:
            job: the task's job.
            part: the images and their known pixels.
            drawn: the samples.
            name: the name of the files without a suffix.
            title: a text above each picture.
            own: the labels of the images; empty for none.

        Returns:
            A text about the pages that goes on after the number of samples.
        """
        known = torch.where(part.known, part.images, 0.0)
        sets: list[tuple[str, Tensor, Sequence[str]]] = [
            ("source", part.images, own),
            ("known", known, ()),
            ("result", drawn.x, job.model.conditioning.described(drawn.request)),
            ("difference", (drawn.x - part.images) / 2, ()),
        ]
        return show_rows(job, sets, name, title)
