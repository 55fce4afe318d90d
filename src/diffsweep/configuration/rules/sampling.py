"""Rules on sampling."""

import torch
from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, note, rule

MOST = 1000.0  # by which x0 may multiply an error of the output without clipping


@note
def sampler_uses_the_learned_variance(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return a warning if the network learns the variance of the reverse steps, but the sampler ignores it.

    Solvers of an ODE ignore it, and so do samplers with a variance of their own.
    """
    if parts.prediction.variance_mix is None and not parts.sampler.uses_variance:
        return f"sampler={cfg.choices.sampler} does not use the learned variance; sampler=ancestral does"
    return None


@rule
def guidance_suits_the_number_of_steps(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if guidance cannot be used with the number of the sampler's steps.

    RePaint goes back a number of steps, which must be fewer than the sampler takes.
    """
    reasons = (guidance.steps_refused_because(parts.sampler.steps) for guidance in parts.guidance)
    return next((reason for reason in reasons if reason), None)


@rule
def likelihood_has_a_chain_of_the_schedules_times(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the chain of a likelihood bound has more steps than a discrete schedule."""
    if parts.likelihood is not None:
        try:
            parts.likelihood.calls(parts.schedule, 1)
        except ValueError as error:
            return f"{error}; use likelihood.steps={parts.schedule.num_steps} or fewer"
    return None


@note
def sampling_from_noise_starts_at_t_1(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return a warning if samples start from noise alone at t = ``sampler.start`` < 1, where x_t also contains data.

    It is of commands without a task that compare samples with data.
    """
    if parts.sampler.start < 1 and "task" not in cfg and parts.metrics is not None:
        return (
            f"samples start at t = {cfg.sampler.start} from noise alone, without the signal that x_t has then; "
            "use sampler.start=1, or sample.py task=edit, which starts from images"
        )
    return None


@note
def x0_is_clipped_or_its_error_bounded(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return a warning if x0 is not clipped and multiplies errors of the network's output by more than 1000.

    The estimate is x0 = c_skip x_t + c_out F for the output F, with |c_out| at t = ``sampler.start``, where it is
    noisiest.
    """
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


@rule
def cached_features_leave_something_to_compute_less(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the branch that every call computes is the whole network, so that nothing is saved."""
    if parts.feature_cache is None:
        return None
    branch, most = parts.feature_cache.branch, getattr(parts.backbone, "branches", 1) - 1
    if branch <= most:
        return None
    use = f"feature_cache.branch={most} or less" if most else "feature_cache=none"
    return (
        f"feature_cache.branch={branch} computes all of backbone={cfg.choices.backbone} in every call, and reuses "
        f"nothing; use {use}"
    )


@rule
def cached_features_are_not_differentiated(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if guidance takes gradients through the network, for which everything is computed."""
    if parts.feature_cache is None or not any(guidance.differentiates for guidance in parts.guidance):
        return None
    return (
        f"guidance={cfg.choices.guidance} takes gradients through the network, of which features of an earlier step "
        "are no part; use feature_cache=none, or guidance=repaint or replacement"
    )


@rule
def cached_features_are_used_by_the_task(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the task of ``sample.py`` does not draw samples by steps that reuse features."""
    if parts.feature_cache is None or parts.task is None or parts.task.reuses_features:
        return None
    return (
        f"task={cfg.choices.task} puts features of source images into the network in every step, and reuses none of "
        "earlier steps; use feature_cache=none"
    )
