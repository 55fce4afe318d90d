"""The task ``reconstruct``: images are inverted to their noise and sampled back."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffsweep.autoencoders import Autoencoder
from diffsweep.guidance import Guidance
from diffsweep.samplers import Sampler
from diffsweep.tasks.base import FromImages
from diffsweep.tasks.drawing import Drawn
from diffsweep.tasks.inversion import inverted, not_invertible_because
from diffsweep.tasks.sampling import Job
from diffsweep.tasks.showing import sampling_of, show_rows
from diffsweep.tasks.sources import load_images


class Reconstruct(FromImages):
    """Invert images to their noise by DDIM, and sample from that noise (arXiv:2010.02502, section 5.4).

    ``reconstruction.png`` shows the images, below them their noises, and below these the reconstructions. Where not all
    fit, several pages show them, ``reconstruction_1.png`` and so on (for clips ``reconstruction.gif``). The text of the
    task reports the root mean square error.

    Args:
        source: where the images come from: ``data`` for held-out data of the model, or a path: see
            :func:`~diffsweep.tasks.sources.load_images`.
    """

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        return not_invertible_because(sampler) or super().incompatible_because(space, sampler, guidances)

    def run(self, job: Job) -> tuple[Drawn, str]:
        images = load_images(self.source, job.data, job.num_samples)
        request = job.request(torch.arange(len(images)), self.source)
        noises = inverted(job, images, request)
        drawn = job.draw_from(noises, request)
        sets = [
            ("original", images, job.model.conditioning.described(request)),
            (f"its noise at t = {job.model.sampler.start:g}, half as strong", self._visible(job, noises), ()),
            ("reconstruction", drawn.x, ()),
        ]
        shown = show_rows(job, sets, "reconstruction", f"images inverted and sampled {sampling_of(job.model)}")
        error = (drawn.x - images).square().mean().sqrt()
        line = f"{len(images)} images inverted and reconstructed, root mean square error {error:.4f} on [-1, 1]"
        return drawn, line + shown

    def _visible(self, job: Job, noises: Tensor) -> Tensor:
        """Return noises of the model's space as images in pixels, half as strong, so that most values are shown."""
        parts = noises.split(job.batch_size)
        return torch.cat([job.model.autoencoder.decode(part.to(job.model.device)).cpu() / 2 for part in parts])
