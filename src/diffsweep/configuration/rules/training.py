"""Schedules, outputs and losses."""

import math

import torch
from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, rule


@rule
def x0_is_finite_at_t_1(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Where alpha is 0 at t = 1, x0 = (x_t - sigma eps) / alpha has no value."""
    coefficients = parts.prediction.coefficients(*parts.schedule(torch.ones((), dtype=torch.float64)))
    if all(math.isfinite(value) for value in coefficients):
        return None
    return (
        f"at t = 1 schedule={cfg.choices.schedule} has no signal left, so x0 does not follow from "
        f"prediction={cfg.choices.prediction}; use prediction=v, x0, flow or edm"
    )


@rule
def learned_variance_has_discrete_steps(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """The bound depends on the variance of steps, of which there are none in continuous time."""
    if "learned_variance" in parts.prediction.provides and parts.schedule.num_steps is None:
        return (
            f"schedule={cfg.choices.schedule} is continuous, where no loss depends on a variance to train; use "
            "prediction.variance=fixed_small, or a discrete schedule (schedule=cosine)"
        )
    return None


@rule
def discrete_bound_learns_its_variance(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """The hybrid loss trains the variance alone by the bound, and a chain's bound is loose without a right one."""
    trains, chain = "learned_variance" in parts.objective.supports, parts.schedule.num_steps is not None
    if trains and chain and "learned_variance" not in parts.prediction.provides:
        return (
            f"objective={cfg.choices.objective} is about the variance of a chain too, and it is fixed; use "
            "prediction.variance=learned_range, or objective=simple"
        )
    return None
