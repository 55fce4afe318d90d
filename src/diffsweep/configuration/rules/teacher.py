"""Rules on teachers: a student has the network of its teacher, and takes the guidance that it has learned."""

from dataclasses import replace

import torch
from omegaconf import DictConfig, OmegaConf

from diffsweep.configuration.build import sized
from diffsweep.configuration.rules.base import BuiltParts, limit, note, rule
from diffsweep.configuration.sizes import instantiated
from diffsweep.configuration.stage_nodes import run_key
from diffsweep.models.distilled import first_difference
from diffsweep.models.rounds import rounds_of, times_of_rounds

PATH = "teacher.base"
FEW = 5  # times that a message names
NETWORK = ("dataset", "conditioning", "backbone", "prediction")  # groups on which the shapes of the weights depend


@rule
def teacher_has_a_fixed_variance(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a teacher has a learned variance, of which a student learns nothing."""
    stage = parts.stages.get(PATH)
    if stage is not None and stage.cfg is not None and instantiated(stage.cfg, "prediction").variance_mix is None:
        return (
            f"{run_key(PATH, stage.node)}: the teacher has prediction.variance=learned_range, and a student learns "
            "where a deterministic sampler leads, which has no variance; use a teacher with a fixed one"
        )
    return None


@rule
def teacher_has_the_network_of_the_student(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a student starts from its teacher's weights, and their networks differ."""
    stage = parts.stages.get(PATH)
    if parts.teacher is None or not parts.teacher.initial or stage is None or stage.cfg is None:
        return None
    theirs = sized(stage.cfg)
    with torch.device("meta"):
        network = instantiated(theirs, "backbone")
    if difference := first_difference(parts.backbone.state_dict(), network.state_dict()):
        return (
            f"the network is not that of the teacher: {difference}; use {_settings_of(theirs, cfg)}, or "
            "teacher.initial=false, which starts from random weights"
        )
    return None


def _settings_of(theirs: DictConfig, ours: DictConfig) -> str:
    """Return what to type to have the network of a teacher, as far as it differs."""
    chosen = [f"{group}={theirs.choices[group]}" for group in NETWORK if theirs.choices[group] != ours.choices[group]]
    if chosen:
        return " and ".join(chosen)
    keys = {key: value for key, value in theirs.backbone.items() if ours.backbone.get(key) != value}
    return " ".join(f"backbone.{key}={value}" for key, value in keys.items()) or "the teacher's settings"


@rule
def guided_teacher_has_a_null_condition(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a teacher is guided that was trained without dropped conditions.

    A teacher that was a student itself and takes the scale as an input needs none.
    """
    stage = parts.stages.get(PATH)
    if parts.teacher is None or not parts.teacher.scales or stage is None or stage.cfg is None:
        return None
    takes_scale = OmegaConf.is_list(OmegaConf.select(stage.cfg, "teacher.scale"))
    if takes_scale or "null_condition" in instantiated(stage.cfg, "conditioning").provides:
        return None
    run = stage.node.get("run")
    which = f"{run_key(PATH, stage.node)}={run}" if run is not None else f"the model that {PATH}.train describes"
    return (
        f"teacher.scale={cfg.teacher.scale} guides the teacher away from the null condition, which {which} has never "
        "been trained with; use a teacher with conditioning=class conditioning.dropout=0.1, or teacher.scale=null"
    )


@rule
def guidance_is_not_built_in_already(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a student that has a guidance scale built in is guided by its condition again."""
    teacher = parts.teacher
    if teacher is None or "built_in_guidance" not in teacher.provides:
        return None
    if any("condition" in guidance.requires for guidance in parts.guidance):
        return (
            f"the student has a guidance of scale {teacher.scales[0]:g} built in (teacher.scale), and "
            f"guidance={cfg.choices.guidance} would guide it again; use guidance=none"
        )
    return None


@rule
def teacher_and_conditioning_provide_different_parts(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the condition has scalars, and a student would take its guidance scale as one."""
    others = {**parts.conditioning.sizes, **({} if parts.cascade is None else parts.cascade.sizes)}
    if parts.teacher is not None and (twice := sorted(parts.teacher.sizes.keys() & others.keys())):
        return (
            f"a range of teacher.scale takes {twice[0]} of the condition, and so does conditioning="
            f"{cfg.choices.conditioning}; use one number as teacher.scale, or another conditioning"
        )
    return None


@rule
def the_scale_of_a_student_is_given(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a network takes the guidance scale as an input, and sampling gives it none."""
    if parts.teacher is None or not parts.teacher.is_input:
        return None
    if any("guidance_scale" in guidance.supports for guidance in parts.guidance):
        return None
    least, most = parts.teacher.scales
    return (
        f"the network takes a guidance scale from {least:g} to {most:g} (teacher.scale), and guidance="
        f"{cfg.choices.guidance} gives it none; use guidance=distilled with guidance.scale=1 for no guidance"
    )


@limit
def a_student_takes_the_steps_that_it_has_learned(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the sampler of a student of few steps takes more of them, or of another solver."""
    known = cfg.model.get("student_steps")
    if known is None:
        return None
    learned = f"the student has learned {known} step{'s' * (known > 1)} of DDIM (model.student_steps)"
    if parts.sampler.order != 1:
        return f"{learned}, and sampler={cfg.choices.sampler} takes others; use sampler=ddim with sampler.steps={known}"
    if parts.sampler.steps > known:
        return f"{learned}, and sampler.steps={parts.sampler.steps} are more; use sampler.steps={known}, or fewer"
    if parts.sampler.clip != "none":
        return (
            f"{learned}, whose x_0 is where a step leads and not an estimate of the data, and sampler.clip="
            f"{parts.sampler.clip} would change it; use sampler.clip=none"
        )
    return None


@note
def a_student_steps_between_times_that_it_has_learned(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return a warning if the sampler of a student of few steps takes others than those between its own times."""
    known = cfg.model.get("student_steps")
    if known is None:
        return None
    learned = replace(parts.sampler, steps=known, start=1.0, stop=0.0).times(parts.schedule)
    own = parts.sampler.times(parts.schedule)
    begins = [k for k in range(len(learned) - len(own) + 1) if torch.allclose(learned[k : k + len(own)], own, rtol=0)]
    if begins:
        return None
    times = ", ".join(f"{float(time):.4g}" for time in learned[:FEW]) + (", ..." if len(learned) > FEW else "")
    least = f"sampler.start={float(learned[-2]):.4g} sampler.steps=1"
    return (
        f"the student has learned the steps between t = {times} alone, and sampler.steps={parts.sampler.steps} from "
        f"sampler.start={parts.sampler.start:g} takes others; use sampler.steps={known} from 1, or from one of these "
        f"times the steps below it, such as {least}"
    )


@rule
def a_teacher_takes_the_steps_that_are_halved(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the steps that a student halves are not those of its teacher or of the schedule."""
    first, stage = cfg.model.get("teacher_steps"), parts.stages.get(PATH)
    if first is None:
        return None
    if parts.schedule.num_steps is not None and first > parts.schedule.num_steps:
        return (
            f"model.teacher_steps={first} is more than the {parts.schedule.num_steps} steps of schedule="
            f"{cfg.choices.schedule}; use fewer, or a continuous schedule such as cosine_continuous"
        )
    try:
        rounds = rounds_of(1, first, cfg.model.student_steps, cfg.model.last_rounds)
        times_of_rounds(parts.sampler, parts.schedule, rounds)
    except ValueError as error:
        return str(error)
    known = None if stage is None or stage.cfg is None else stage.cfg.model.get("student_steps")
    if known is not None and known != first:
        return (
            f"the teacher is a student itself and takes {known} steps, and model.teacher_steps={first}; use "
            f"model.teacher_steps={known}"
        )
    return None
