r"""Progressive distillation: a student learns to take in one step what its teacher takes in two, round after round.

From noisy samples :math:`x_t` the teacher takes two steps, t to t' and t' to s, of a deterministic sampler. The
student's target is the :math:`\tilde x_0` with which one step of DDIM from t ends at the same place (Salimans and Ho
2022, arXiv:2202.00512, alg. 2). At the end of a round the student becomes the teacher of the next one, which halves the
steps again.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from diffsweep.datasets import ImageData
from diffsweep.diffusion import Condition, Denoised, Denoiser, NetworkDenoiser, Noise, Stream, leading_to, step_between
from diffsweep.errors import UserError
from diffsweep.models.distilled import DistilledModel, Lesson
from diffsweep.models.rounds import Rounds, rounds_of, times_of_rounds
from diffsweep.samplers import Sampler

SAVED = "former"  # of a checkpoint: the teacher of the round


class ProgressiveDistillation(DistilledModel):
    r"""A student whose step goes where two steps of its teacher go (progressive distillation, arXiv:2202.00512).

    In a round in which the student takes N steps, :math:`t_0 > t_1 > ... > t_{2N}` are the times of the model's sampler
    for 2 N steps. Training draws a time and takes the :math:`t_{2i}` above it; the teacher's steps go to
    :math:`t_{2i+1}` and :math:`t_{2i+2}`. The first teacher is the given one. The teacher of a later round is the
    student of the round before with its averaged weights, from which the student goes on too, with a new state of the
    optimizer. It takes the steps of DDIM, which it has learned.

    Args:
        parts: the positional arguments of :class:`DiffusionModel`.
        teacher_steps: the number of steps of the given teacher.
        student_steps: the number of steps of the student in the end.
        last_rounds: how many times longer the rounds to two steps and to one are than the others.
        settings: the keyword arguments of :class:`DistilledModel`.

    Attributes:
        round: the index of the present round, from 0 on.

    Raises:
        ValueError: halving does not lead from the teacher's steps to the student's, or the times of half the steps are
            not among those of all steps.
    """

    shardable = False

    def __init__(
        self, *parts: Any, teacher_steps: int, student_steps: int, last_rounds: float = 2.0, **settings: Any
    ) -> None:
        super().__init__(*parts, **settings)
        self._halving = (teacher_steps, student_steps, last_rounds)
        self._times = times_of_rounds(self.sampler, self.denoiser.schedule, rounds_of(1, *self._halving))
        self.round = 0
        self._former: list[NetworkDenoiser] = []  # at most one, in a list so that it is no submodule
        self._on: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    @property
    def rounds(self) -> Rounds:
        """Return the rounds of the training, whose length is ``trainer.max_steps``."""
        return rounds_of(self.trainer.max_steps, *self._halving)

    def round_at(self, step: int) -> int:
        return self.rounds.at(step)

    def begin_round(self, number: int) -> None:
        self.round = number
        self._former = [copy.deepcopy(self.denoiser).eval().requires_grad_(False)]

    @property
    def steps(self) -> int:
        """Return the number of steps that the student takes in the present round."""
        return (len(self._times[self.round]) - 1) // 2

    def progress_notes(self) -> list[str]:
        return [f"round {self.round + 1} of {len(self._times)} to {self.steps} step{'s' * (self.steps > 1)}"]

    def times(self, noise: Noise) -> tuple[Tensor, Tensor]:
        drawn, weight = self.time_sampling(self.denoiser.schedule, noise.uniform(stream=Stream.TIME))
        return self._grid(drawn)[0].to(drawn), weight

    def _grid(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return for each time t in (0, 1] the ends of the student's step that begins at or above it, and its middle.

        All are float64, (B,): the beginning, the middle and the end.
        """
        key = (self.round, t.device)
        if key not in self._on:
            increasing = self._times[self.round].flip(0).to(t.device)
            self._on[key] = increasing, increasing[::2].contiguous()
        rising, ends = self._on[key]
        rounded = 1e-7  # more than what times lose in float32
        above = torch.bucketize(t.double() - rounded, ends).clamp(1, self.steps)
        return rising[2 * above], rising[2 * above - 1], rising[2 * above - 2]

    def taught_by(
        self, device: torch.device, cond: Condition | None, w: Tensor | None
    ) -> tuple[Denoiser, Condition | None]:
        if not self._former:
            return super().taught_by(device, cond, w)
        former = self._former[0]
        if next(former.parameters()).device != device:  # after a checkpoint was read
            former.to(device)
        return former, self.teacher.to_student(cond, w)

    def targets(self, lesson: Lesson) -> Denoised:
        x, sampler, schedule = lesson.x_t, self._solver(), self.denoiser.schedule
        t, middle, s = self._grid(lesson.t)
        first, second = step_between(schedule, middle, t), step_between(schedule, s, middle, s == 0)
        for step in (first, second):
            x = sampler.step_each(lesson.teacher, x, step, lesson.cond)
        return leading_to(x, second.at_s, lesson.x_t, first.at_t)

    def _solver(self) -> Sampler:
        """Return the solver of the teacher's steps: the given one in the first round, then the student's."""
        return self.sampler if self._former else self.teacher.sampler

    def show(self, count: int, data: ImageData | None, seed: int, steps: int | None) -> tuple[Tensor, ...]:
        return super().show(count, data, seed, steps if self._trainer is None else self.steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        weights = self._former[0].state_dict() if self._former else None
        checkpoint[SAVED] = {"round": self.round, "ends": list(self.rounds.ends), "weights": weights}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint[SAVED]
        if saved["ends"] != list(self.rounds.ends):
            raise UserError(
                f"trainer.max_steps={self.trainer.max_steps}: the rounds of this run are shares of "
                f"{saved['ends'][-1]} steps, which cannot change once it has begun; leave it out"
            )
        if saved["weights"] is not None:
            self.begin_round(saved["round"])
            self._former[0].load_state_dict(saved["weights"])
