"""The task ``control``: new samples whose composition follows images, by control networks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffsweep.autoencoders import Autoencoder
from diffsweep.conditioning import ControlImages, mean_agreement
from diffsweep.diffusion import Noise
from diffsweep.errors import UserError
from diffsweep.guidance import Guidance
from diffsweep.metric_table import metric
from diffsweep.samplers import Sampler
from diffsweep.tasks.base import Task
from diffsweep.tasks.drawing import Drawn
from diffsweep.tasks.sampling import Job
from diffsweep.tasks.showing import show_controlled
from diffsweep.tasks.sources import images_missing_because, load_images


class Control(Task):
    """A task that draws samples for given images with a model that has control networks (``adaptation=controlnet``).

    The control networks read what their degradation leaves of the images, such as their edges, or the images are
    control images already, such as drawn edges. ``controlled.png`` has in rows the control images, the samples and, if
    the control images were made here, the images; several pages show what one does not, ``controlled_1.png`` and so
    on.

    Args:
        source: where the images come from: ``data`` for held-out data of the model, or a path: see
            :func:`~diffsweep.tasks.sources.load_images`. A list has one for each control network.
        degraded: whether the images of ``source`` are control images already.

    Raises:
        ValueError: ``degraded`` for held-out data, or an empty list.
    """

    def __init__(self, source: str | list[str] = "data", degraded: bool = False) -> None:
        self.sources = [source] if isinstance(source, str) else list(source)
        if not self.sources:
            raise ValueError("task.source is empty; give data, or images for each control network")
        if degraded and "data" in self.sources:
            raise ValueError("task.degraded=true: held-out data are no control images; give files as task.source")
        self.degraded = degraded

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        if sampler.start < 1:
            return f"sampler.start={sampler.start:g} starts from noised images; use task=edit, or sampler.start=1"
        return next(filter(None, map(images_missing_because, self.sources)), None)

    def run(self, job: Job) -> tuple[Drawn, str]:
        if job.model.control is None:
            raise UserError("the model has no control network; use a run of adaptation=controlnet")
        control, images = self._control(job, job.model.control)
        indices = torch.arange(len(control))
        if self.sources[0] == "data":
            request = job.request(indices, "data")
        else:  # held-out images are not read
            request = job.model.conditioning.request(indices, job.data.deferred("val"))
        request = {**request, "control": control}
        if images is not None:
            request["clean"] = images
        drawn = job.draw(len(indices), lambda rows: job.model.start(rows, job.seed), request)
        shown = show_controlled(job, drawn)
        numbers = mean_agreement(job.model.agreement_of_each(drawn.x, request))
        line = ", ".join(f"{metric(name).label} {metric(name).shown(value)}" for name, value in numbers.items())
        return drawn, f"{len(indices)} samples drawn for their control images{shown}" + (f"\n{line}" if line else "")

    def _control(self, job: Job, control: ControlImages) -> tuple[Tensor, Tensor | None]:
        """Return the control images, and the images that they are made of; None for several sources, or none."""
        count = len(control.degradations)
        if len(self.sources) not in (1, count):
            raise UserError(
                f"task.source has {len(self.sources)} sources, and the model has {count} control network(s); give one "
                "for each, or one for all"
            )
        sources = self.sources * count if len(self.sources) == 1 else self.sources
        side = job.data.image_size
        loaded = [
            load_images(source, job.data, job.num_samples, each.degraded_side(side) if self.degraded else side)
            for source, each in zip(sources, control.degradations, strict=True)
        ]
        if len({len(images) for images in loaded}) > 1:
            counts = " and ".join(str(len(images)) for images in loaded)
            raise UserError(f"task.source: each control network needs as many images as the others, not {counts}")
        noise = Noise(0, torch.arange(len(loaded[0])))
        try:
            parts = [
                each.given(images)[0] if self.degraded else each.image(images, noise)
                for each, images in zip(control.degradations, loaded, strict=True)
            ]
        except ValueError as error:
            raise UserError(f"task.degraded=true: {error}") from error
        return torch.cat(parts, 1), None if self.degraded or len(self.sources) > 1 else loaded[0]
