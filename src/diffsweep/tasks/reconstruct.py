"""The task ``reconstruct``: images are inverted to their noise and sampled back."""

from collections.abc import Sequence

import torch

from diffsweep import pictures
from diffsweep.autoencoders import Autoencoder
from diffsweep.guidance import Guidance
from diffsweep.samplers import Sampler
from diffsweep.tasks.base import SHOWN, FromImages
from diffsweep.tasks.inversion import inverted, not_invertible_because
from diffsweep.tasks.sampling import Drawn, Job
from diffsweep.tasks.sources import load_images


class Reconstruct(FromImages):
    """Invert images to their noise by DDIM, and sample from that noise (arXiv:2010.02502, section 5.4).

    ``reconstruction.png`` shows the first twelve images, below them their noises, and the reconstructions at the bottom
    (for clips it is ``reconstruction.gif``). The line of the task reports the root mean square error.

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
        shown = job.model.autoencoder.decode(noises[:SHOWN].to(job.model.device)).cpu() / 2
        pictures.save_shown(pictures.rows, [images, shown, drawn.x], job.folder / "reconstruction")
        error = (drawn.x - images).square().mean().sqrt()
        return drawn, f"{len(images)} images inverted and reconstructed, root mean square error {error:.4f} on [-1, 1]"
