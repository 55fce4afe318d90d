"""The task ``restore``: images are enlarged, coloured, filled in or cleaned by a model of degraded images."""

import torch

from diffsweep.conditioning import ImageConditioning
from diffsweep.datasets import Batch
from diffsweep.errors import UserError
from diffsweep.metrics.restoration import restoration
from diffsweep.tasks.base import FromImages
from diffsweep.tasks.drawing import Drawn
from diffsweep.tasks.sampling import Job
from diffsweep.tasks.showing import show_restored
from diffsweep.tasks.sources import load_images


class Restore(FromImages):
    """A task that restores images with a model that reads degraded ones (``conditioning=image``).

    The images are degraded first, as in training, or are degraded already, such as small ones. ``restored.png`` has in
    rows what the network reads, the samples and, if the images were degraded here, the original images and the
    difference of samples and originals; several pages show what one does not, ``restored_1.png`` and so on.

    Args:
        source: where the images come from: ``data`` for held-out data of the model, or a path: see
            :func:`~diffsweep.tasks.sources.load_images`.
        degraded: whether the images of ``source`` are degraded already. For super-resolution they then have the side of
            the small images.
    """

    requires = frozenset({"image_channels"})

    def __init__(self, source: str = "data", degraded: bool = False) -> None:
        super().__init__(source)
        self.degraded = degraded

    def run(self, job: Job) -> tuple[Drawn, str]:
        conditioning, data = job.model.conditioning, job.data
        part = next(module for module in conditioning.modules() if isinstance(module, ImageConditioning))
        side = part.degradation.degraded_side(data.image_size) if self.degraded else data.image_size
        images = load_images(self.source, data, job.num_samples, side)
        indices = torch.arange(len(images))
        others: Batch = {} if part is conditioning else job.request(indices, self.source)
        others = {name: value for name, value in others.items() if name not in part.entries}
        try:
            given = part.given(*part.degradation.given(images), indices) if self.degraded else part.of(images, indices)
        except ValueError as error:
            raise UserError(f"task.degraded=true: {error}") from error
        request = {**others, **given}
        drawn = job.draw(len(images), lambda rows: job.model.start(rows, job.seed), request)
        shown = show_restored(job, drawn)
        line = f"{len(images)} images restored{shown}"
        if not self.degraded:
            numbers = restoration(drawn.x, request)
            line += f"\nPSNR {numbers['psnr']:.2f} dB, of the degraded images {numbers['psnr_degraded']:.2f} dB"
            if "inconsistency" in numbers:
                line += f"; off from what is known by {numbers['inconsistency']:.3f} of 255 (root mean square)"
        return drawn, line
