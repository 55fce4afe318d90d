"""The task ``edit``: images are noised up to a time t < 1 and denoised again (SDEdit, arXiv:2108.01073)."""

from collections.abc import Sequence

import torch

from diffsweep.autoencoders import Autoencoder
from diffsweep.guidance import Guidance
from diffsweep.samplers import Sampler
from diffsweep.tasks.base import FromImages
from diffsweep.tasks.sampling import Drawn, Job
from diffsweep.tasks.showing import sampling_of, show_rows
from diffsweep.tasks.sources import load_images


class Edit(FromImages):
    """Edit images by SDEdit (Meng et al. 2022, arXiv:2108.01073): noise them up to ``sampler.start``, then sample.

    ``sampler.start`` is a time below 1; the less noise, the nearer the result is to the image. ``edit.png`` shows each
    image above its result, which has the class or caption that it was drawn for above it. Where not all fit, several
    pages show them, ``edit_1.png`` and so on (for clips ``edit.gif``).

    Args:
        source: where the images come from: ``data`` for held-out data of the model, or a path: see
            :func:`~diffsweep.tasks.sources.load_images`.
    """

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        if sampler.start == 1:
            return "from sampler.start=1 nothing of an image is left; use sampler.start=0.6, or another time below 1"
        return super().incompatible_because(space, sampler, guidances)

    def run(self, job: Job) -> tuple[Drawn, str]:
        images = load_images(self.source, job.data, job.num_samples)
        request = job.request(torch.arange(len(images)))
        drawn = job.draw(len(images), lambda rows: job.model.start(rows, job.seed, source=images[rows]), request)
        start = f"edited from t = {job.model.sampler.start:g}"
        words = job.model.conditioning.described
        own = words(job.request(torch.arange(len(images)), "data")) if self.source == "data" else []
        sets = [("original", images, own), (start, drawn.x, words(request))]
        shown = show_rows(job, sets, "edit", f"images edited {sampling_of(job.model)}")
        return drawn, f"{len(images)} images {start}{shown}"
