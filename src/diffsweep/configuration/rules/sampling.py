"""Walks."""

import torch
from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, note

STEADY = 1000.0  # of errors of the output in x0, at most


@note
def sampler_uses_the_learned_variance(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """A solver of an ODE, and a walk that has a variance of its own, do not ask for the learned one."""
    if parts.prediction.heads > 1 and not parts.sampler.uses_variance:
        return f"sampler={cfg.choices.sampler} has no use for the learned variance; sampler=ancestral has"
    return None


@note
def sampling_from_noise_starts_at_t_1(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """What is left of the data at an earlier time, noise alone does not have."""
    if parts.sampler.start < 1 and "task" not in cfg and parts.metrics is not None:
        return (
            f"samples start at t = {cfg.sampler.start} from noise alone, without what is left of the data there; "
            "sample.py task=edit starts from images"
        )
    return None


@note
def x0_is_clipped_or_its_error_bounded(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Where x0 follows from the output by a large factor, so do the output's errors, unless x0 is clipped."""
    t = torch.tensor(parts.sampler.start, dtype=torch.float64)
    factor = abs(float(parts.prediction.coefficients(*parts.schedule(t)).c_out))
    if parts.sampler.clip == "none" and factor > STEADY:
        return (
            f"a walk starts where x0 is off by {factor:.0f} times the error of the network's output, and nothing clips it; "
            "use prediction=v, or a schedule that keeps more of the signal (schedule=linear, scaled_linear)"
        )
    return None
