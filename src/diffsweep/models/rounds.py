"""Rounds of a training: how many steps a student takes in each, and at which optimizer step each ends."""

import math
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from diffsweep.samplers import Sampler
from diffsweep.schedules import Schedule

FEW = 2  # rounds to so many steps or fewer are the long ones


class Rounds(NamedTuple):
    """The rounds of progressive distillation: in each the number of a sampler's steps is halved.

    Attributes:
        steps: the number of steps that the student takes in each round, such as (32, 16, 8).
        ends: the number of optimizer steps after which each round ends; the last one is the whole training.
    """

    steps: tuple[int, ...]
    ends: tuple[int, ...]

    def at(self, step: int) -> int:
        """Return the index of the round to which optimizer step ``step`` = 0, 1, ... belongs, from 0 on."""
        return min(sum(step >= end for end in self.ends), len(self.ends) - 1)


def rounds_of(total_steps: int, teacher_steps: int, student_steps: int, last_rounds: float) -> Rounds:
    """Return the rounds that halve ``teacher_steps`` steps of a sampler to ``student_steps``.

    Args:
        total_steps: optimizer steps of the whole training.
        teacher_steps: the steps of the teacher that is given.
        student_steps: the steps of the student in the end.
        last_rounds: how many times longer the rounds to two steps and to one are than the others.

    Raises:
        ValueError: halving does not lead from the teacher's steps to the student's, or ``last_rounds`` is not positive.
    """
    halvings = math.log2(teacher_steps / student_steps) if teacher_steps > 0 and student_steps > 0 else 0.0
    if halvings < 1 or not halvings.is_integer():
        raise ValueError(
            f"halving does not lead from model.teacher_steps={teacher_steps} to model.student_steps={student_steps}; "
            "their ratio is a power of 2, at least 2, such as 64 and 4"
        )
    if not 0 < last_rounds < math.inf:
        raise ValueError(f"model.last_rounds must be positive, not {last_rounds}")
    steps = tuple(teacher_steps >> halving for halving in range(1, int(halvings) + 1))
    shares = list(accumulate(last_rounds if count <= FEW else 1.0 for count in steps))
    return Rounds(steps, tuple(round(total_steps * share / shares[-1]) for share in shares))


def times_of_rounds(sampler: Sampler, schedule: Schedule, rounds: Rounds) -> list[Tensor]:
    """Return the times of the teacher's steps in each round, (2 N + 1,) float64; every second one is the student's.

    Args:
        sampler: the student's sampler, with any number of steps.
        schedule: the noise schedule.
        rounds: the rounds, with N steps of the student each.

    Raises:
        ValueError: the sampler's times for N steps are not every second one of those for 2 N steps.
    """
    found = []
    for count in rounds.steps:
        own, times = (sampler.with_steps(number).times(schedule) for number in (count, 2 * count))
        if len(own) != count + 1 or not torch.allclose(own, times[::2], rtol=0, atol=1e-12):
            raise ValueError(
                f"the times of {count} steps are not every second one of those of {2 * count} steps; use a schedule "
                "whose sigma is 0 at t = 0, such as schedule=cosine or flow, and sampler.spacing=uniform or quadratic"
            )
        found.append(times)
    return found


def decaying(
    optimizer: Optimizer,
    total_steps: int,
    teacher_steps: int | None,
    student_steps: int | None,
    last_rounds: float | None,
) -> LambdaLR:
    """Return a schedule of learning rates that fall linearly to 0 in each round of progressive distillation.

    Optimizer step j = 0, 1, ... of a round of J steps has the factor 1 - j / J (arXiv:2202.00512, app. H). The other
    arguments are those of :func:`rounds_of`.

    Raises:
        ValueError: the model is not trained in rounds.
    """
    if teacher_steps is None or student_steps is None or last_rounds is None:
        raise ValueError("it is of model=progressive_distillation; use lr_scheduler=cosine or constant")
    rounds = rounds_of(total_steps, teacher_steps, student_steps, last_rounds)

    def factor(step: int) -> float:
        number = rounds.at(step)
        begin, end = (0, *rounds.ends)[number], rounds.ends[number]
        return max(0.0, 1 - (step - begin) / max(1, end - begin))

    return LambdaLR(optimizer, factor)
