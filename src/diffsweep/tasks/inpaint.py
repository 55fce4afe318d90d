"""The task ``inpaint``: the hidden pixels of images are drawn given the others."""

from collections.abc import Sequence

from diffsweep.autoencoders import Autoencoder
from diffsweep.degradations import Degradation
from diffsweep.guidance import Guidance
from diffsweep.samplers import Sampler
from diffsweep.tasks.drawing import Drawn
from diffsweep.tasks.likeness import likeness
from diffsweep.tasks.masked import MaskedImages, MaskedTask
from diffsweep.tasks.masks import DRAWN
from diffsweep.tasks.sampling import Job, animate
from diffsweep.tasks.showing import sampling_of
from diffsweep.tasks.sources import load_images

FRAMES = 80  # of the animation, about


class Inpaint(MaskedTask):
    """Draw the hidden pixels of images given the known ones, from pure noise.

    It works without training for the purpose, under ``guidance=repaint``, ``replacement`` or ``reconstruction``, and
    with a network that reads masked images (``conditioning=image degradation=mask_half``, as Palette).
    ``inpainting.png`` shows the images, what is known of them, the results and the differences, in several pages
    ``inpainting_1.png`` and so on if not all fit. ``trajectory.gif`` shows how the first eight form, with
    RePaint's ways back in t.

    Args:
        source: where the images come from: ``data`` for held-out data of the model, or a path: see
            :func:`~diffsweep.tasks.sources.load_images`.
        mask: ``degradation`` for masks that the group ``degradation`` draws; or the path of an image of the size of the
            model's, white where pixels are to be filled and black where they are known.
        seam: the number of known pixels beside hidden ones over which image and sample are blended; 0 keeps the known
            pixels to the bit.
        degradation: what the group ``degradation`` describes.
        compare: whether classes of results are compared with those of the images, and results with the training
            images: see :func:`~diffsweep.tasks.likeness.likeness`. The line that is printed then has both.

    Raises:
        ValueError: a negative ``seam``, or ``compare`` without the data's own images.
    """

    def __init__(
        self,
        source: str = "data",
        mask: str = DRAWN,
        seam: int = 0,
        degradation: Degradation | None = None,
        compare: bool = False,
    ) -> None:
        super().__init__(source, mask, seam, degradation)
        if compare and source != "data":
            raise ValueError(f"task.compare takes images of known classes; use task.source=data, not {source}")
        self.compare = compare

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        if sampler.start < 1:
            return (
                f"hidden pixels are drawn from pure noise, and sampler.start={sampler.start:g} is not; use "
                "sampler.start=1, or task=edit with task.mask, which starts from noised images"
            )
        return super().incompatible_because(space, sampler, guidances)

    def run(self, job: Job) -> tuple[Drawn, str]:
        assert self.masks is not None
        images = load_images(self.source, job.data, job.num_samples)
        part = MaskedImages(images, self.masks.known(images))
        request = self.request(job, part, self.source)
        drawn = self.draw(job, part, request)
        shown = self.show(job, part, drawn, "inpainting", f"images inpainted {sampling_of(job.model)}", ())
        animate(job.model, *self.start(job, part, request, 8), job.folder / "trajectory.gif", frames=FRAMES)
        hidden = 1 - float(part.known.double().mean())
        line = f"{len(images)} images of which {100 * hidden:.0f} % is hidden, inpainted{shown}"
        return drawn, f"{line}\n{likeness(job, part, drawn, self.masks)}" if self.compare else line
