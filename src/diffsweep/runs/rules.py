"""Combinations that do not work, each a rule with a name that says why and what to use instead.

A rule asks what the parts are, never what they are called.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from omegaconf import DictConfig

from diffsweep.runs.errors import UserError

Rule = Callable[[DictConfig, Mapping[str, Any]], str | None]


def times_exist(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """The sampler's spacing must have its times on this schedule."""
    try:
        parts["sampler"].times(parts["schedule"])
    except ValueError as error:
        return str(error)
    return None


def x0_follows_from_eps(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Where alpha is 0 at t = 1, x0 = (x_t - sigma eps) / alpha has no value."""
    schedule, prediction = parts["schedule"], parts["prediction"]
    alpha, sigma = schedule(torch.ones((), dtype=torch.float64))
    if all(math.isfinite(value) for value in prediction.coefficients(alpha, sigma)):
        return None
    return (
        "at t = 1 this schedule has no signal left, so x0 does not follow from eps; use prediction=v or prediction=x0"
    )


def validation_by_steps(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Validation runs by steps, because the training stream has no epochs."""
    if cfg.trainer.check_val_every_n_epoch is not None:
        return "trainer.check_val_every_n_epoch must stay null: the training stream has no epochs; use trainer.val_check_interval=STEPS"
    return None


def intervals_are_positive(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Something happens every so many steps."""
    for key in ("val_check_interval", "log_every_n_steps", "accumulate_grad_batches"):
        if not (isinstance(cfg.trainer[key], int) and cfg.trainer[key] >= 1):
            return f"trainer.{key} is a whole number of steps, at least 1, not {cfg.trainer[key]}"
    return None


def run_ends(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Without max_steps a run over an endless stream would never end."""
    if cfg.trainer.max_steps < 1:
        return f"trainer.max_steps must be at least 1, not {cfg.trainer.max_steps}: the training stream has no end of its own"
    return None


def logger_mode_exists(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """W&B knows three modes that make sense here."""
    modes = ("online", "offline", "disabled")
    return None if cfg.logger.mode in modes else f"logger.mode is one of {', '.join(modes)}, not {cfg.logger.mode}"


def scaled_gradients_can_be_clipped(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """A fused optimizer unscales float16's gradients itself, after they would have to be clipped."""
    if (
        str(cfg.trainer.precision) in ("16", "16-mixed")
        and cfg.optimizer.get("fused")
        and cfg.trainer.gradient_clip_val
    ):
        return "float16 gradients cannot be clipped with a fused optimizer; use optimizer.fused=false, or trainer.precision=bf16-mixed"
    return None


RULES: tuple[Rule, ...] = (
    logger_mode_exists,
    times_exist,
    x0_follows_from_eps,
    validation_by_steps,
    intervals_are_positive,
    run_ends,
    scaled_gradients_can_be_clipped,
)


def apply(cfg: DictConfig, parts: Mapping[str, Any]) -> None:
    """Raise UserError at the first rule that is broken.

    Args:
        cfg: a checked configuration.
        parts: what its groups build: schedule, prediction, sampler, dataset.
    """
    for rule in RULES:
        if message := rule(cfg, parts):
            raise UserError(f"{message} [rule {rule.__name__}]")
