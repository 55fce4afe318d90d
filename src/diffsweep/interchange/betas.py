"""Discrete noise schedules as the betas of diffusers' schedulers, by name or in a list."""

from typing import Any

import torch

from diffsweep.errors import UserError
from diffsweep.schedules import Schedule

CURVES = ("linear", "scaled_linear", "squaredcos_cap_v2")  # diffusers' names of schedules that all schedulers have


def betas_of(schedule: Schedule) -> dict[str, Any]:
    """Return the arguments of diffusers' schedulers that give a discrete schedule, by its name or as a list of betas.

    Raises:
        UserError: the schedule is continuous.
    """
    if schedule.num_steps is None:
        raise UserError(
            f"{type(schedule).__name__}, the schedule, is continuous; diffusers' schedulers need a discrete one, or "
            "schedule=flow"
        )
    count = schedule.num_steps
    times = torch.arange(count + 1, dtype=torch.float64) / count
    alpha_bar = schedule(times)[0] ** 2
    keys = [key for key in ("beta_start", "beta_end") if hasattr(schedule, key)]
    ends = {key: getattr(schedule, key) * 1000 / count for key in keys}  # those of diffusers do not scale with T
    for curve in CURVES:
        named = {"num_train_timesteps": count, "beta_schedule": curve, **ends}
        if torch.allclose(_alpha_bar(named), alpha_bar[1:], rtol=1e-4, atol=1e-9):
            return named
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    return {"num_train_timesteps": count, "trained_betas": betas.tolist()}


def _alpha_bar(config: dict[str, Any]) -> torch.Tensor:
    from diffusers import DDPMScheduler

    table: torch.Tensor = DDPMScheduler(**config).alphas_cumprod.double()
    return table
