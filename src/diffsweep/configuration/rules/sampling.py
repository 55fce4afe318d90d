"""Rules on sampling."""

import torch
from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, note

MOST = 1000.0  # by which x0 may multiply an error of the output without clipping


@note
def sampler_uses_the_learned_variance(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Note a sampler that ignores a learned variance: solvers of an ODE, or one with its own variance."""
    if parts.prediction.heads > 1 and not parts.sampler.uses_variance:
        return f"sampler={cfg.choices.sampler} does not use the learned variance; sampler=ancestral does"
    return None


@note
def sampling_from_noise_starts_at_t_1(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Note samples that start from noise alone at t < 1, where x_t is data and noise."""
    if parts.sampler.start < 1 and "task" not in cfg and parts.metrics is not None:
        return (
            f"samples start at t = {cfg.sampler.start} from noise alone, without the signal that x_t has then; "
            "use sampler.start=1, or sample.py task=edit, which starts from images"
        )
    return None


@note
def x0_is_clipped_or_its_error_bounded(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Note an unclipped x0 that is a large multiple of the output, which multiplies the error of the output."""
    if "likelihood" not in parts.model.provides:  # no diffusion model: nothing is sampled
        return None
    t = torch.tensor(parts.sampler.start, dtype=torch.float64)
    factor = abs(float(parts.prediction.coefficients(*parts.schedule(t)).c_out))
    if parts.sampler.clip == "none" and factor > MOST:
        return (
            f"at t = {cfg.sampler.start} the error of x0 is {factor:.0f} times that of the network's output, and "
            "nothing clips x0; use prediction=v, or a schedule that keeps more of the signal "
            "(schedule=linear, scaled_linear)"
        )
    return None
