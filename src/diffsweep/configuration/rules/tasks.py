"""Rules on the tasks of ``sample.py``."""

from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, rule


@rule
def task_suits_the_model(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Refuse a task that does not work with the space, the sampler or the guidance."""
    if parts.task is None:
        return None
    reason = parts.task.incompatible_because(parts.autoencoder, parts.sampler, parts.guidance)
    return f"task={cfg.choices.task}: {reason}" if reason else None


@rule
def num_frames_is_set_once(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Refuse num_frames for a task that draws clips in windows, or from given clips: it has a key of its own."""
    if parts.task is None or parts.task.length_key is None or cfg.num_frames is None:
        return None
    return (
        f"num_frames={cfg.num_frames} is for clips that are drawn at once from noise; with task={cfg.choices.task} "
        f"leave it out, and use {parts.task.length_key}"
    )
