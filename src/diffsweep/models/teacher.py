r"""The teacher of a distilled model: a trained diffusion model, whose estimates and steps are the student's targets.

Where the teacher is guided, its estimate of x_0 is that of classifier-free guidance,
:math:`D(x_t, t, \varnothing) + w (D(x_t, t, c) - D(x_t, t, \varnothing))`. If w is drawn anew for each sample, the
student takes it as an input (Meng et al. 2022, arXiv:2210.03142), and one call of the student then replaces two calls
of the teacher at any scale in that range.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoiser, Noise, Stream
from diffsweep.guidance import EachScale, guided_by_input
from diffsweep.models.borrowed import Borrowed
from diffsweep.models.diffusion import DiffusionModel
from diffsweep.samplers import Sampler


class Teacher(Borrowed[DiffusionModel]):
    """The teacher of a student: a trained model, the solver of its steps, and the scale at which it is guided.

    Args:
        base: returns the trained model, a diffusion model of the same data, space and schedule.
        sampler: the solver whose steps the student learns, a deterministic one.
        scale: the guidance scale w of the teacher. None: it is not guided. A number: the student has this scale built
            in. Two numbers, least and most: w is uniform between them in training, and the student's network takes w.
        initial: whether the student's network starts from the teacher's weights.
        run: the directory of the teacher's run; the configuration reads it.

    Attributes:
        sizes: the sizes of the parts of the condition that the student's network takes beside the teacher's.

    Raises:
        ValueError: the sampler draws noise, or ``scale`` is no number and no range.
    """

    provides = frozenset({"teacher"})

    def __init__(
        self,
        base: Callable[[], DiffusionModel],
        sampler: Sampler,
        scale: float | Sequence[float] | None = None,
        initial: bool = True,
        run: str | None = None,
    ) -> None:
        super().__init__(base)
        if sampler.order is None:
            raise ValueError(
                f"teacher.sampler={type(sampler).__name__} draws noise in its steps, and a student learns where they "
                "lead; use a deterministic one, such as sampler@teacher.sampler=ddim"
            )
        scales = [
            float(value) for value in ([] if scale is None else [scale] if isinstance(scale, int | float) else scale)
        ]
        if len(scales) > 2 or (scale is not None and not scales) or sorted(scales) != scales:
            raise ValueError(f"teacher.scale is null, a number, or two of them, [least, most], not {scale}")
        self.sampler, self.initial, self.run = sampler, initial, run
        self.scales = scales
        self.is_input = len(scales) == 2
        self.provides = frozenset(
            {"teacher"} | ({"guidance_scale"} if self.is_input else {"built_in_guidance"} if scales else set())
        )
        self.sizes: Mapping[str, int] = {"num_scalars": 1} if self.is_input else {}

    def scales_of(self, noise: Noise, device: torch.device) -> Tensor | None:
        """Return the guidance scale w of each sample of a training batch, (B,); None without guidance.

        Args:
            noise: the random numbers of the samples.
            device: where they are put.
        """
        if not self.scales:
            return None
        least, most = self.scales[0], self.scales[-1]
        return least + (most - least) * noise.uniform(stream=Stream.GUIDANCE_SCALE).to(device)

    def to_student(self, cond: Condition | None, w: Tensor | None) -> Condition | None:
        """Return the condition that the student's network takes: with the scale w, if that is an input of it."""
        return guided_by_input(cond, w) if self.is_input and w is not None else cond

    def denoiser(
        self, device: torch.device, cond: Condition | None, w: Tensor | None
    ) -> tuple[Denoiser, Condition | None]:
        """Return the teacher's denoiser, guided at the scales w, and the condition that it takes.

        Args:
            device: of the student.
            cond: the condition of each sample, without a scale.
            w: the guidance scale of each sample, (B,); None for no guidance.
        """
        base = self.on(device)
        if w is None:
            return base.denoiser, cond
        own = getattr(base, "teacher", None)  # of a teacher that was a student itself
        takes_w = isinstance(own, Teacher) and own.is_input
        return base.denoiser if takes_w else EachScale(base.denoiser), guided_by_input(cond, w)
