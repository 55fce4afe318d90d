"""Rules on rectified flow: where the pairs of a student come from, and with which weights it starts."""

from omegaconf import DictConfig, OmegaConf

from diffsweep.configuration.build import sized
from diffsweep.configuration.rules.base import BuiltParts, rule
from diffsweep.configuration.rules.teacher import PATH, teacher_has_a_fixed_variance
from diffsweep.configuration.sizes import instantiated
from diffsweep.models import Reflow


@rule
def student_starts_from_a_teacher_of_its_prediction(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a student starts from weights that predict another quantity, or at other levels."""
    stage = parts.stages.get(PATH)
    if parts.teacher is None or not parts.teacher.initial or stage is None or stage.cfg is None:
        return None
    if "consistency" in parts.model.provides:  # its prediction reads the network of others, which has a rule of its own
        return None
    if teacher_has_a_fixed_variance(cfg, parts):  # the reason why predictions differ is that of another rule
        return None
    inherited = "schedule" in (stage.node.get("inherit") or ())  # another rule compares these by their levels
    for group in ("prediction",) if inherited else ("schedule", "prediction"):
        theirs, ours = (OmegaConf.to_container(one[group], resolve=True) for one in (stage.cfg, cfg))
        if theirs != ours:
            return (
                f"the teacher has {group}={stage.cfg.choices[group]} and the student {group}={cfg.choices[group]}, or "
                "other settings of it, so its weights are no beginning; use teacher.initial=false"
            )
    return None


@rule
def pairs_fill_a_batch(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a reflow has fewer pairs to train on than samples in a batch."""
    count = cfg.model.get("num_pairs") if issubclass(parts.model, Reflow) else None
    if count is not None and count - max(count // 20, 1) < cfg.dataset.batch_size:
        return (
            f"model.num_pairs={count} fills no batch of dataset.batch_size={cfg.dataset.batch_size} beside the pairs "
            "that are held out; use more, such as 20000"
        )
    return None


@rule
def conditions_of_pairs_need_no_images(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a reflow has a condition that is made of images, or another than its teacher."""
    stage = parts.stages.get(PATH)
    if not issubclass(parts.model, Reflow):
        return None
    if parts.conditioning.requires_pixels:
        return (
            f"conditioning={cfg.choices.conditioning} reads images, and the pairs of model=reflow have none; use "
            "conditioning=class, text or none"
        )
    if stage is not None and stage.cfg is not None:
        theirs = instantiated(sized(stage.cfg), "conditioning").sizes
        if dict(theirs) != dict(parts.conditioning.sizes):
            return (
                f"the teacher has conditioning={stage.cfg.choices.conditioning} and the student conditioning="
                f"{cfg.choices.conditioning}, or another size of it; use that of the teacher"
            )
    return None


@rule
def student_has_a_fixed_variance(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a reflow has a learned variance: paths between the ends of pairs have none."""
    if issubclass(parts.model, Reflow) and parts.prediction.variance_mix is None:
        return "model=reflow learns a deterministic flow, which has no variance; use prediction.variance=fixed_small"
    return None


@rule
def pairs_lead_from_noise_to_data(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the sampler that draws the pairs of a reflow starts after t = 1 or stops before 0."""
    if issubclass(parts.model, Reflow) and parts.teacher is not None:
        start, stop = parts.teacher.sampler.start, parts.teacher.sampler.stop
        if (start, stop) != (1, 0):
            return (
                f"teacher.sampler.start={start:g} and teacher.sampler.stop={stop:g}: the ends of a pair are pure noise "
                "and data; use teacher.sampler.start=1 teacher.sampler.stop=0"
            )
    return None


@rule
def pairs_are_of_one_size_and_kept_in_order(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if stored pairs should take the place of images of several sizes, or of a stream."""
    if not issubclass(parts.model, Reflow) or cfg.model.get("num_pairs") is None:
        return None
    if cfg.dataset.get("buckets") is not None:
        return "stored pairs have one size, and dataset.buckets gives images several; use dataset.buckets=null"
    if cfg.dataset.get("streaming"):
        return "stored pairs are not read as a stream; use dataset.streaming=false, or model.num_pairs=null"
    return None
