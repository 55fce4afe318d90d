"""Rules on consistency models: their noise levels, the ends of their trajectories, distances and sampling steps."""

import math

import torch
from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, limit, rule
from diffsweep.configuration.rules.teacher import PATH
from diffsweep.configuration.sizes import instantiated
from diffsweep.models.consistency import distance_refused_because


@rule
def distance_of_a_consistency_model_is_given(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the distance of a consistency model is unknown, missing, or not one of its space."""
    if "consistency" not in parts.model.provides:
        return None
    distance = str(cfg.model.distance)
    if refused := distance_refused_because(distance, cfg.model.c, parts.perceptual is not None):
        return refused
    if distance == "perceptual" and not parts.autoencoder.bounded:
        return (
            f"model.distance=perceptual compares images, and autoencoder={cfg.choices.autoencoder} has latents; use "
            "model.distance=pseudo_huber perceptual=none"
        )
    return None


@rule
def consistency_functions_are_the_identity_at_the_lowest_level(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if what a network puts out at the lowest noise level would change x."""
    if parts.discretisation is None:
        return None
    lowest = getattr(parts.prediction, "sigma_min", 0.0)
    if float(parts.prediction.coefficients(1.0, lowest).c_out) != 0:
        return (
            "a consistency function is the identity at the lowest noise level, and the estimate of prediction="
            f"{cfg.choices.prediction} is not; use prediction=consistency"
        )
    ratio = math.exp(-float(parts.schedule.log_snr(torch.tensor(parts.schedule.t_min, dtype=torch.float64))) / 2)
    if lowest > 0 and abs(lowest / ratio - 1) > 1e-6:
        return (
            f"prediction.sigma_min={lowest:g} is not the lowest noise level of schedule={cfg.choices.schedule}, "
            f"{ratio:.4g}; use prediction.sigma_min={ratio:.10g}, or 0 to end at clean data"
        )
    return None


@rule
def noise_levels_suit_the_schedule(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a discretisation has more levels than a discrete schedule, or a weight of 0."""
    if parts.discretisation is None:
        return None
    levels, known = parts.discretisation.levels(1.0), parts.schedule.num_steps
    if levels is not None and known is not None and levels > known + 1:
        return (
            f"discretisation={cfg.choices.discretisation} has {levels} noise levels in the end, and schedule="
            f"{cfg.choices.schedule} has {known + 1}; use fewer, or a continuous schedule such as edm"
        )
    if parts.discretisation.weight == "inverse" and float(parts.schedule(torch.ones((), dtype=torch.float64))[0]) == 0:
        return (
            f"schedule={cfg.choices.schedule} has no signal at t = 1, where discretisation.weight=inverse is 0, so "
            "that nothing would be learned then; use discretisation.weight=one, or schedule=edm"
        )
    return None


@limit
def consistency_samplers_take_the_steps_that_were_trained(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if consistency sampling has more steps than training had intervals."""
    if parts.discretisation is None or "consistency" not in parts.sampler.requires:
        return None
    levels = parts.discretisation.levels(1.0)
    if levels is not None and parts.sampler.steps > levels - 1:
        return (
            f"sampler.steps={parts.sampler.steps} is more than the {levels - 1} intervals between the noise levels of "
            f"discretisation={cfg.choices.discretisation}; use sampler.steps={levels - 1}, or fewer"
        )
    return None


@rule
def student_reads_the_network_as_its_teacher(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a consistency model starts from weights of another scaling of input or time."""
    stage = parts.stages.get(PATH)
    if parts.discretisation is None or parts.teacher is None or not parts.teacher.initial:
        return None
    if stage is None or stage.cfg is None:
        return None
    theirs = instantiated(stage.cfg, "prediction")
    t = torch.tensor([0.3, 0.7], dtype=torch.float64)
    levels = parts.schedule(t)
    read, wanted = (
        torch.stack([each.c_noise(parts.schedule, t), *each.coefficients(*levels)])
        for each in (theirs, parts.prediction)
    )
    if torch.allclose(read, wanted, rtol=0.02):
        return None
    choice = stage.cfg.choices.prediction
    return (
        f"the student would start from weights of prediction={choice}, which mean another output than prediction="
        f"{cfg.choices.prediction}; use a teacher with prediction=edm, such as model=consistency_distillation trains, "
        "or teacher.initial=false"
    )


@rule
def times_and_losses_of_a_consistency_model_are_its_own(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the objective or the time sampling of a consistency model is chosen.

    It has a distance of two estimates as its loss, and the times of a discretisation.
    """
    if parts.discretisation is None:
        return None
    unused = (("objective", "simple", "model.distance"), ("time_sampling", "uniform", "the group discretisation"))
    for group, usual, instead in unused:
        if cfg.choices[group] != usual:
            chosen = f"{group}={cfg.choices[group]}"
            return f"{chosen} is not used by model={cfg.choices.model}; leave it out, and see {instead}"
    return None


@rule
def a_teacher_that_gives_weights_alone_is_started_from(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if neighbouring samples come from data, and what else the teacher is for is not used."""
    from_data = cfg.model.get("from_data", False)  # older runs do not have the key
    if parts.discretisation is None or parts.teacher is None or not from_data:
        return None
    given = "model.from_data=true takes nothing of the teacher but the weights to start from"
    if not parts.teacher.initial:
        return f"{given}, and teacher.initial=false leaves these out; use teacher.initial=true, or model=consistency"
    if parts.teacher.scales:
        return f"{given}, so teacher.scale={cfg.teacher.scale} would not be used; use teacher.scale=null"
    return None
