r"""Rectified flow: a student learns straight paths between the ends of its teacher's trajectories (arXiv:2209.03003).

A pair is noise :math:`\epsilon` and the sample :math:`x_0` in which the teacher's sampling ODE ends that starts from
:math:`x_1 = \sigma_1 \epsilon`. The student minimises the loss of its objective at

.. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon,

where data and independent noise are replaced by a pair. The paths of different pairs cross less than those of
independent ends, so the learned flow is straighter and needs fewer steps.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffsweep.datasets import Batch
from diffsweep.diffusion import Condition, Noise, Stream, prior, straightness
from diffsweep.models.distilled import VALIDATED, Student
from diffsweep.models.teacher import Teacher
from diffsweep.models.timed import Losses

# The seed of the noise of pairs. It is far from the small seeds that users type: samples that a student is measured by
# start from other noise than it has learned.
PAIRED = 0x5EF10A9D
SHOWN = 64  # the pairs along whose paths a validation measures the straightness


class Ends(NamedTuple):
    """The two ends of the paths of a batch, with the guidance scales at which the teacher led from one to the other.

    Attributes:
        eps: the noise, (B, ...).
        x_0: the sample in which the teacher's trajectory ends, (B, ...).
        w: the guidance scale of each, (B,); None without guidance.
    """

    eps: Tensor
    x_0: Tensor
    w: Tensor | None


class Reflow(Student):
    """A flow that is trained on pairs of its teacher, so that its paths become straight (rectified flow).

    A batch has stored pairs, as ``pair`` and ``pair_index``. A batch of data, without them, gets pairs that the teacher
    draws at once, under the annotations of the batch. Logged in validation are the loss of held-out pairs and
    ``val/straightness``, see :func:`~diffsweep.diffusion.straightness`.

    Args:
        parts, teacher, settings: the arguments of :class:`Student`.
        num_pairs: the number of pairs that are drawn once and kept in a file; a twentieth of them, at most 1,000, is
            held out. None: pairs are drawn anew for each batch, and none is used twice.

    Raises:
        ValueError: ``num_pairs`` is below 1, or the teacher's sampler does not lead from t = 1 to t = 0.
    """

    requires = frozenset({"teacher"})
    teacher: Teacher

    def __init__(self, *parts: Any, teacher: Teacher | None, num_pairs: int | None = None, **settings: Any) -> None:
        super().__init__(*parts, teacher=teacher, **settings)
        if num_pairs is not None and num_pairs < 1:
            raise ValueError(f"model.num_pairs={num_pairs} leaves no pair; use 20000, or null to draw them in training")
        if (self.teacher.sampler.start, self.teacher.sampler.stop) != (1, 0):
            raise ValueError("the ends of a pair are pure noise and data; use teacher.sampler.start=1 and .stop=0")
        self.num_pairs = num_pairs

    @torch.no_grad()
    def draw_pairs(self, batch: Batch, noise: Noise) -> Ends:
        """Return pairs that the teacher draws under the annotations of a batch, which is on the model's device.

        Args:
            batch: the annotations, such as ``label``.
            noise: the noise that the paths start from, and that draws guidance scales.
        """
        base = self.teacher.on(self.device)
        eps = noise.normal(*self.autoencoder.shape, stream=Stream.PRIOR, dtype=base.float_type)
        w = self.teacher.scales_of(noise, self.device)
        denoiser, cond = self.teacher.denoiser(self.device, base.condition_of(batch), w)
        x_0 = self.teacher.sampler(denoiser, prior(base.denoiser.schedule, eps), cond, noise)
        return Ends(eps.to(self.float_type), x_0.to(self.float_type), w)

    def ends(self, batch: Batch, noise: Noise) -> Ends:
        """Return the pairs of a batch, those that it has stored, or new ones of the given noise."""
        if "pair" not in batch:
            return self.draw_pairs(batch, noise)
        eps, x_0 = batch["pair"].to(self.float_type).unbind(1)
        return Ends(eps, x_0, self.teacher.scales_of(self.noise_of(batch["pair_index"], PAIRED), self.device))

    def losses(self, batch: dict[str, Tensor]) -> Losses:
        noise = self.batch_noise(batch["position"])
        # not the run's seed: the samples that a run is measured by start from the noise of that seed
        anew = self.noise_of(batch["position"], PAIRED + 1 + self.seed)
        losses = self.losses_of(self.ends(batch, anew), self.condition(batch, noise), noise)
        self.update_time_sampling(self.denoiser.schedule, losses.t, losses.losses)
        return losses

    def losses_of(self, ends: Ends, cond: Condition | None, noise: Noise) -> Losses:
        """Return the losses of pairs at drawn times, with the times and their importance weights.

        Args:
            ends: the pairs.
            cond: their conditions, without the guidance scale; None for none.
            noise: draws the times.
        """
        t, weight = self.times(noise)
        cond = self.teacher.to_student(cond, ends.w)
        return Losses(self.objective(self.denoiser, ends.x_0, cond, t, ends.eps, noise), t, weight)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss on held-out pairs, with fixed times, and ``val/straightness`` along the first paths."""
        cond = self.condition(batch)
        ends = self.ends(batch, self.noise_of(batch["index"], PAIRED))
        for repeat in range(self.val_repeats):
            noise = Noise(VALIDATED, batch["index"] * self.val_repeats + repeat, clips=self.denoiser.noise)
            losses, t, weight = self.losses_of(ends, cond, noise)
            self.log_validation(weight * losses, t)
        if batch_idx == 0:
            taken = self.teacher.to_student(cond, ends.w)
            few = None if taken is None else taken[:SHOWN]
            self.log_mean("val/straightness", straightness(self.denoiser, ends.eps[:SHOWN], few))
