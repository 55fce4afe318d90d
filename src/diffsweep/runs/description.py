"""What loggers show of a run beside its numbers: name, group, tags and configuration."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from diffsweep.configuration.build import sized
from diffsweep.configuration.flat import PLACES, STAGES, differences, flat
from diffsweep.configuration.saved import load_config

LONGEST_NAME, LONGEST_TAG, LONGEST_ID = 128, 64, 64  # characters that W&B takes
WITHOUT_TAG = (*PLACES, "trainer", "callbacks")


class Description(NamedTuple):
    """The description of a run, or of the use of a run by another command, for loggers.

    Attributes:
        directory: the folder of its files.
        id: the beginning of the id by which W&B finds it again when it is resumed.
        name: what differs: in a sweep the values that vary, else choices and values that are not the defaults, or of
            the use of a run those that are not the run's.
        group: the sweep; of a run alone the name of its directory. The uses of a run are in the group of the run.
        job_type: the command: ``train``, ``evaluate`` or ``sample``.
        tags: the choices, such as ``schedule=linear``.
        config: the choices and values: see :func:`~diffsweep.configuration.flat.flat`.
    """

    directory: Path
    id: str
    name: str
    group: str
    job_type: str
    tags: list[str]
    config: dict[str, Any]


def describe(cfg: DictConfig, job_type: str = "train") -> Description:
    """Return the description of the run of a command for loggers.

    Args:
        cfg: its checked configuration.
        job_type: the command: ``train``, ``evaluate`` or ``sample``.
    """
    run = Path(cfg.paths.run_dir)
    used = None if job_type == "train" else str(run)
    directory = run if used is None else Path(cfg.output)
    sweep = cfg.sweep if used is None else load_config(run).get("sweep")
    in_sweep = cfg.sweep not in (None, STAGES)
    words = [f"{key}={_typed(value)}" for key, value in ({} if in_sweep else differences(cfg, used)).items()]
    name = (directory.name.partition("_")[2] or directory.name) if in_sweep else _joined(words)
    name = (name or f"model={cfg.choices.model}") if used is None else f"{job_type} {name}".strip()
    tags = [
        f"{group}={option}"[:LONGEST_TAG]
        for group, option in cfg.choices.items()
        if group not in WITHOUT_TAG and option not in (None, "none")
    ]
    config = flat(sized(cfg))
    if used is not None:
        config |= {"run": run.name} | ({"sweep": cfg.sweep} if in_sweep else {})
    return Description(
        directory, run_id(directory), name[:LONGEST_NAME], sweep or run.name, job_type, sorted(tags), config
    )


def run_id(directory: Path) -> str:
    """Return the beginning of the W&B id of a run: the last two names of its directory, by which people find it.

    Hyphens join the names and replace underscores; at most the last 64 characters are taken. A run that an agent of a
    W&B sweep has started has the id that the agent gave it, by which the sweep finds its results.
    """
    if os.environ.get("WANDB_SWEEP_ID") and (given := os.environ.get("WANDB_RUN_ID")):
        return given
    return "-".join(directory.parts[-2:]).replace("_", "-")[-LONGEST_ID:]


def _joined(words: list[str]) -> str:
    """Return as many of the first words as a name takes."""
    return " ".join(
        word for i, word in enumerate(words) if len(" ".join(words[: i + 1])) <= LONGEST_NAME - len("evaluate ")
    )


def _typed(value: Any) -> str:
    """Return a value as a user types it, but for spaces."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
