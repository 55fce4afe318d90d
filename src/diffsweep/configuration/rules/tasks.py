"""Rules on the tasks of ``sample.py``."""

from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, rule
from diffsweep.models import ModelParts


@rule
def task_suits_the_model(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the task of ``sample.py`` cannot be done with the model or its sampler.

    What counts is the space of the model, pixels or latents, the sampler and the guidance, the network and its
    conditions, and the data.
    """
    if parts.task is None:
        return None
    reason = parts.task.incompatible_because(parts.autoencoder, parts.sampler, parts.guidance)
    made_of = ModelParts(parts.backbone, parts.conditioning, parts.guidance, parts.dataset, parts.cascade)
    reason = reason or parts.task.unsuited_because(made_of)
    return f"task={cfg.choices.task}: {reason}" if reason else None


@rule
def num_frames_is_set_once(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if ``num_frames`` is set with a task that sets the length of clips by its own key.

    So do tasks that draw long clips in windows, or start from given clips.
    """
    if parts.task is None or parts.task.length_key is None or "num_frames" not in cfg or cfg.num_frames is None:
        return None
    return (
        f"num_frames={cfg.num_frames} is for clips that are drawn at once from noise; with task={cfg.choices.task} "
        f"leave it out, and use {parts.task.length_key}"
    )
