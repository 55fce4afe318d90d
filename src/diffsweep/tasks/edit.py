"""The task ``edit``: images are noised up to a time t < 1 and denoised again (SDEdit, arXiv:2108.01073)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffsweep.autoencoders import Autoencoder
from diffsweep.diffusion import Condition, Noise
from diffsweep.guidance import Guidance
from diffsweep.models import DiffusionModel
from diffsweep.samplers import Callback, Sampler
from diffsweep.tasks.drawing import Drawn, drawn_by_trajectories
from diffsweep.tasks.masked import MaskedImages, MaskedTask
from diffsweep.tasks.sampling import Job
from diffsweep.tasks.showing import sampling_of, show_rows
from diffsweep.tasks.sources import load_images


class Edit(MaskedTask):
    """Edit images by SDEdit (Meng et al. 2022, arXiv:2108.01073): noise them up to ``sampler.start``, then sample.

    ``sampler.start`` is a time below 1; the less noise, the nearer the result is to the image. With stochastic
    inversion (InST, arXiv:2211.13203) the noise is the one that the model predicts in the noised image, under the
    condition of the sample, so that more of the image is kept. ``edit.png`` shows each image above its result, which
    has the class or caption that it was drawn for above it. Where not all fit, several pages show them, ``edit_1.png``
    and so on (for clips ``edit.gif``).

    With a mask only the hidden pixels change (the paper's algorithm 2): guidance that takes known pixels holds the
    others, such as ``guidance=repaint``, and ``edit.png`` shows what is known and the difference too.

    Args:
        stochastic_inversion: whether the noise is predicted, by one further network evaluation: see
            :meth:`~diffsweep.models.DiffusionModel.start_inverted`.
        settings: those of :class:`~diffsweep.tasks.masked.MaskedTask`; without a mask all of an image is edited.

    Raises:
        ValueError: a negative ``seam``, or one without a mask.
    """

    def __init__(self, stochastic_inversion: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.stochastic_inversion = stochastic_inversion

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        if sampler.start == 1:
            return "from sampler.start=1 nothing of an image is left; use sampler.start=0.6, or another time below 1"
        return super().incompatible_because(space, sampler, guidances)

    def begun(
        self, model: DiffusionModel, rows: Tensor, seed: int, images: Tensor, cond: Condition | None
    ) -> tuple[Tensor, Noise]:
        if self.stochastic_inversion:
            return model.start_inverted(rows, seed, images, cond)
        return model.start(rows, seed, source=images)

    def run(self, job: Job) -> tuple[Drawn, str]:
        images = load_images(self.source, job.data, job.num_samples)
        start, title = f"edited from t = {job.model.sampler.start:g}", f"images edited {sampling_of(job.model)}"
        start += ", by the predicted noise" if self.stochastic_inversion else ""
        words = job.model.conditioning.described
        own = words(job.request(torch.arange(len(images)), "data")) if self.source == "data" else []
        if self.masks is not None:
            part = MaskedImages(images, self.masks.known(images))
            drawn = self.draw(job, part, self.request(job, part))
            hidden = 1 - float(part.known.double().mean())
            shown = self.show(job, part, drawn, "edit", title, own)
            return drawn, f"{len(images)} images of which {100 * hidden:.0f} % {start}{shown}"
        request = job.request(torch.arange(len(images)))

        def make(rows: Tensor, cond: Condition | None, callback: Callback) -> Tensor:
            start = self.begun(job.model, rows, job.seed, images[rows], cond)
            return job.model.sample_from(*start, cond, callback=callback)

        drawn = drawn_by_trajectories(job.model, len(images), job.batch_size, make, request)
        sets = [("original", images, own), (start, drawn.x, words(request))]
        return drawn, f"{len(images)} images {start}{show_rows(job, sets, 'edit', title)}"
