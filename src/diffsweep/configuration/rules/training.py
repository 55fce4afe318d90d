"""Rules on schedules, outputs of the network and losses."""

import torch
from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, rule

LARGEST = 1e30  # factor of the network's output and of x_t whose product with them is below the largest float32, 3.4e38


@rule
def x0_is_finite_at_t_1(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if x0 cannot be computed from the network's output at t = 1 in single precision.

    So it is with a prediction of eps if alpha(1) = 0: x_0 = (x_t - sigma eps) / alpha has no value. If alpha(1) is
    nearly 0, both terms overflow and their difference is NaN.
    """
    alpha, sigma = parts.schedule(torch.ones((), dtype=torch.float64))
    coefficients = parts.prediction.coefficients(alpha, sigma)
    if all(abs(float(value)) <= LARGEST for value in coefficients):  # not so of NaN
        return None
    left = "no signal" if alpha == 0 else f"too little signal (alpha = {float(alpha):.1g})"
    return (
        f"at t = 1 schedule={cfg.choices.schedule} has {left} left, so x0 cannot be computed from "
        f"prediction={cfg.choices.prediction}; use prediction=v, x0, flow or edm"
    )


@rule
def learned_variance_has_discrete_steps(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the variance is learned under a continuous schedule, where no loss trains it.

    Only the variational bound of T discrete steps depends on the variance.
    """
    if "learned_variance" in parts.prediction.provides and parts.schedule.num_steps is None:
        return (
            f"schedule={cfg.choices.schedule} is continuous, and without discrete steps no loss trains a variance; use "
            "prediction.variance=fixed_small, or a discrete schedule (schedule=cosine)"
        )
    return None


@rule
def discrete_bound_learns_its_variance(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the objective trains the variance of discrete steps, but the variance is fixed.

    A fixed variance leaves the variational bound loose.
    """
    trains, chain = "learned_variance" in parts.objective.supports, parts.schedule.num_steps is not None
    if trains and chain and "learned_variance" not in parts.prediction.provides:
        return (
            f"objective={cfg.choices.objective} trains the variance of discrete steps too, and it is fixed; use "
            "prediction.variance=learned_range, or objective=simple"
        )
    return None


LEAST = {"val_repeats": 1, "statistics": 1, "images_per_clip": 0}  # of counts of models, which are built in a run alone


@rule
def counts_of_the_model_are_large_enough(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a model is to validate with no draws, or has another count that is too small.

    Without a draw a run has no validation loss, by which the best checkpoint is chosen.
    """
    for name, least in LEAST.items():
        if (count := cfg.model.get(name)) is not None and count < least:
            return f"model.{name} must be at least {least}, not {count}; use model.{name}={max(least, 1)}"
    return None
