"""The task ``edit``: images are noised up to a time t < 1 and denoised again (SDEdit, arXiv:2108.01073)."""

from collections.abc import Sequence

import torch

from diffsweep.autoencoders import Autoencoder
from diffsweep.guidance import Guidance
from diffsweep.samplers import Sampler
from diffsweep.tasks.masked import MaskedImages, MaskedTask
from diffsweep.tasks.sampling import Drawn, Job
from diffsweep.tasks.showing import sampling_of, show_rows
from diffsweep.tasks.sources import load_images


class Edit(MaskedTask):
    """Edit images by SDEdit (Meng et al. 2022, arXiv:2108.01073): noise them up to ``sampler.start``, then sample.

    ``sampler.start`` is a time below 1; the less noise, the nearer the result is to the image. ``edit.png`` shows each
    image above its result, which has the class or caption that it was drawn for above it. Where not all fit, several
    pages show them, ``edit_1.png`` and so on (for clips ``edit.gif``).

    With a mask only the hidden pixels change (the paper's algorithm 2): guidance that takes known pixels holds the
    others, such as ``guidance=repaint``, and ``edit.png`` shows what is known and the difference too.

    Args:
        source: where the images come from: ``data`` for held-out data of the model, or a path: see
            :func:`~diffsweep.tasks.sources.load_images`.
        mask: None for no mask; the path of an image, white where pixels are to be changed and black where they are
            known; or ``degradation`` for masks that the group ``degradation`` draws.
        seam: the number of known pixels beside hidden ones over which image and sample are blended; 0 for none.
        degradation: what the group ``degradation`` describes.

    Raises:
        ValueError: a negative ``seam``, or one without a mask.
    """

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        if sampler.start == 1:
            return "from sampler.start=1 nothing of an image is left; use sampler.start=0.6, or another time below 1"
        return super().incompatible_because(space, sampler, guidances)

    def run(self, job: Job) -> tuple[Drawn, str]:
        images = load_images(self.source, job.data, job.num_samples)
        start, title = f"edited from t = {job.model.sampler.start:g}", f"images edited {sampling_of(job.model)}"
        words = job.model.conditioning.described
        own = words(job.request(torch.arange(len(images)), "data")) if self.source == "data" else []
        if self.masks is not None:
            part = MaskedImages(images, self.masks.known(images))
            drawn = self.draw(job, part, self.request(job, part), noised=True)
            hidden = 1 - float(part.known.double().mean())
            shown = self.show(job, part, drawn, "edit", title, own)
            return drawn, f"{len(images)} images of which {100 * hidden:.0f} % {start}{shown}"
        request = job.request(torch.arange(len(images)))
        drawn = job.draw(len(images), lambda rows: job.model.start(rows, job.seed, source=images[rows]), request)
        sets = [("original", images, own), (start, drawn.x, words(request))]
        return drawn, f"{len(images)} images {start}{show_rows(job, sets, 'edit', title)}"
