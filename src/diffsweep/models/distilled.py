r"""The base class of students: models that learn targets which a trained teacher makes, in place of the data alone.

A student is a denoiser, and its loss is any objective at the teacher's estimates: with :math:`x_t = \alpha_t x_0 +
\sigma_t \epsilon` of the data, a subclass gives targets :math:`\tilde x_0, \tilde\epsilon` with the same
:math:`x_t = \alpha_t \tilde x_0 + \sigma_t \tilde\epsilon`, and

.. math:: L = w(t) \lVert \hat F(x_t, t, c) - F(\tilde x_0, \tilde\epsilon) \rVert^2

is the loss of :class:`~diffsweep.diffusion.Simple` with these in place of :math:`x_0, \epsilon`.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffsweep.diffusion import Condition, Denoised, Denoiser, Noise, Stream, add_noise
from diffsweep.errors import UserError
from diffsweep.models.diffusion import DiffusionModel
from diffsweep.models.teacher import Teacher
from diffsweep.models.timed import Losses

VALIDATED = 0x2B0E3A6F  # the seed of validation noise, which is the same in all runs


class Lesson(NamedTuple):
    """What a student learns from at one training step: noisy samples, and a teacher that can be called on them.

    Attributes:
        x_t: noisy samples, (B, ...).
        t: their times, (B,).
        teacher: the teacher's denoiser, guided if the teacher is.
        cond: the condition that ``teacher`` takes.
        noise: the random numbers of the samples.
    """

    x_t: Tensor
    t: Tensor
    teacher: Denoiser
    cond: Condition | None
    noise: Noise


class Student(DiffusionModel):
    """A diffusion model whose training step may use a trained teacher; a subclass defines :meth:`lesson_losses`.

    In training the network starts from the teacher's weights, if the teacher has the option ``initial``. A
    trained student needs its teacher no more. The validation loss is the training loss on held-out data.

    Args:
        parts: the positional arguments of :class:`DiffusionModel`.
        teacher: the teacher; None for none, of which a ValueError is raised by a subclass that requires one.
        settings: the keyword arguments of :class:`DiffusionModel`.
    """

    supports = frozenset({"teacher"})

    def __init__(self, *parts: Any, teacher: Teacher | None, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        if teacher is None and "teacher" in self.requires:
            raise ValueError("the model learns from a teacher, and teacher=none has none; use teacher=trained")
        self.teacher: Teacher | None = teacher

    def setup(self, stage: str) -> None:
        """Start the network from the teacher's weights, at the beginning of a training."""
        if stage == "fit" and self.teacher is not None and self.teacher.initial:
            start_from(self.denoiser.backbone, self.teacher.base.denoiser.backbone)

    def losses(self, batch: dict[str, Tensor]) -> Losses:
        noise = self.batch_noise(batch["position"])
        losses = self.lesson_losses(self.autoencoder.of(batch, noise), self.condition(batch, noise), noise)
        self.update_time_sampling(self.denoiser.schedule, losses.t, losses.losses)
        return losses

    def times(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """Return the times of a batch and their importance weights, (B,) each: those of the time sampling."""
        return self.time_sampling(self.denoiser.schedule, noise.uniform(stream=Stream.TIME))

    @abstractmethod
    def lesson_losses(self, x_0: Tensor, cond: Condition | None, noise: Noise) -> Losses:
        """Return the losses of samples in the space of diffusion, with their times and importance weights.

        Subclasses define it, unless their losses are of other samples than those of the data.

        Args:
            x_0: clean samples, (B, ...).
            cond: their conditions; None for none.
            noise: their random numbers.
        """

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the training loss of held-out samples, ``val/loss`` and by quarter of t, with fixed noise."""
        num_val = self.trainer.datamodule.num_val  # type: ignore[attr-defined]
        x_0, cond = self.autoencoder.of(batch), self.condition(batch)
        for repeat in range(self.val_repeats):
            noise = Noise(VALIDATED, batch["index"] + repeat * num_val, clips=self.denoiser.noise)
            losses, t, weight = self.lesson_losses(x_0, cond, noise)
            self.log_validation(weight * losses, t)


class DistilledModel(Student):
    """A student that requires its teacher, whose estimates are the targets; a subclass defines :meth:`targets`.

    Args:
        parts: the positional arguments of :class:`DiffusionModel`.
        teacher: the teacher; without one a ValueError is raised.
        settings: the keyword arguments of :class:`DiffusionModel`.
    """

    requires = frozenset({"teacher"})
    teacher: Teacher

    @abstractmethod
    def targets(self, lesson: Lesson) -> Denoised:
        """Return the targets of x_0 and eps at ``lesson.x_t``, with x_t = alpha_t x_0 + sigma_t eps.

        It is called without gradients. Subclasses define it.
        """

    def taught_by(
        self, device: torch.device, cond: Condition | None, w: Tensor | None
    ) -> tuple[Denoiser, Condition | None]:
        """Return the denoiser that teaches, on a device, and the condition that it takes.

        Args:
            device: of the student.
            cond: the condition of each sample, without a guidance scale.
            w: the guidance scale of each sample, (B,); None for no guidance.
        """
        return self.teacher.denoiser(device, cond, w)

    def lesson_losses(self, x_0: Tensor, cond: Condition | None, noise: Noise) -> Losses:
        t, weight = self.times(noise)
        x_t = add_noise(self.denoiser.schedule, x_0, t, noise.like(x_0, Stream.EPS))
        w = self.teacher.scales_of(noise, x_0.device)
        with torch.no_grad():
            taught = self.targets(Lesson(x_t, t, *self.taught_by(x_0.device, cond, w), noise))
        losses = self.objective(self.denoiser, taught.x0, self.teacher.to_student(cond, w), t, taught.eps, noise)
        return Losses(losses, t, weight)


class GuidanceDistillation(DistilledModel):
    """A student that estimates in one call what its guided teacher estimates in two (arXiv:2210.03142, stage one).

    The targets are the teacher's guided estimates of x_0 and eps at times of the time sampling.
    """

    def targets(self, lesson: Lesson) -> Denoised:
        return lesson.teacher(lesson.x_t, lesson.t, lesson.cond)


def start_from(student: nn.Module, teacher: nn.Module) -> None:
    """Copy the weights of a teacher's network into a student's, in place.

    A network that takes numbers which the teacher's does not take starts with an embedding of them that is 0.

    Raises:
        UserError: the networks differ otherwise; the message has the first difference.
    """
    weights: Mapping[str, Tensor] = teacher.state_dict()
    if difference := first_difference(student.state_dict(), weights):
        raise UserError(f"the student's network differs from the teacher's: {difference}; use the teacher's backbone")
    student.load_state_dict(weights, strict=False)
    for name, weight in student.named_parameters():
        if name not in weights and ".mlp.2." in name:  # the last layer of the embedding
            nn.init.zeros_(weight)


def first_difference(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> str | None:
    """Return the first difference in names or shapes of two networks' weights in words; None if a student can start.

    Args:
        student, teacher: the state dicts; weights of the student's ``scalars`` need not be the teacher's.
    """
    for name, weight in student.items():
        if name not in teacher and ".scalars." not in name:
            return f"the teacher has no {name}"
        if name in teacher and weight.shape != teacher[name].shape:
            shapes = (" x ".join(map(str, one.shape)) for one in (teacher[name], weight))
            return "{} has {} numbers and this network's {}".format(name, *shapes)
    return next((f"the teacher has {name} and this network has none" for name in teacher if name not in student), None)
