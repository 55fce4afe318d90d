"""Stages: trained models that another run needs, each given by path, found by a hash, or trained first.

Examples are the noisy classifier of classifier guidance, the weaker model of autoguidance and the autoencoder of
latent diffusion. Each is a run of ``train.py`` like any other. :func:`resolve_stages` determines its directory
before anything is built, and :func:`~diffsweep.configuration.loading.trained` loads the model where it is used.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig, OmegaConf

from diffsweep import shell
from diffsweep.callbacks import LossByTime, SampleGrid
from diffsweep.callbacks.checkpoints import FOLDER, LAST
from diffsweep.configuration.build import build_data
from diffsweep.configuration.check import check, is_of_kind, locate
from diffsweep.configuration.stage_nodes import (
    given_config,
    portable,
    run_key,
    stage_nodes,
    trainable_config,
)
from diffsweep.errors import Stopped, UserError
from diffsweep.files import alone, write_text
from diffsweep.metrics import identify
from diffsweep.processes import starts_first

FINISHED = "stage.json"  # the last file of a stage; with metrics=none it has no metrics.json

# The weights of a stage do not depend on these parts of its configuration.
LIFE = (
    *("paths", "logger", "choices", "sweep", "resume_from", "trust", "verify", "optimized_metric", "plan"),
    "execution",
)
WITHIN = ("degradation",)  # a part of the conditioning, if that uses it
AFTERWARDS = ("sampler", "feature_cache", "guidance", "metrics", "likelihood")  # used after training
LATER = ("adaptation", "preference", "comparisons", "scorer")  # groups that stages of earlier releases did not have
NOTHING = "diffsweep.autoencoders.nothing"
WATCHING = (ProgressBar, SampleGrid, LossByTime)
TRAINER = (
    *("accelerator", "devices", "default_root_dir", "log_every_n_steps", "enable_model_summary"),
    *("val_check_interval", "limit_val_batches", "num_sanity_val_steps"),
)


def resolve_stages(cfg: DictConfig, train: Callable[[DictConfig], float]) -> None:
    """Fill in the run directory of every stage of a configuration, a trained model that the run needs.

    A stage without a given directory is found by a hash of its own configuration among the runs that were trained
    before, or trained now.

    Args:
        cfg: changed in place: the ``run`` of each stage is set.
        train: trains a run under a configuration.

    Raises:
        UserError: a given run cannot be used, or no run is given and none can be trained.
    """
    check(cfg)
    for path, node in stage_nodes(cfg):
        if node.get("run") is not None:
            given_config(cfg, path, node)
        elif node.get("train") is not None:
            directory = _found_or_trained(path, trainable_config(cfg, path, node), train)
            OmegaConf.update(cfg, run_key(path, node), str(directory), force_add=True)
        else:
            raise UserError(f"{run_key(path, node)} is missing: give the directory of a trained run")


def _found_or_trained(path: str, stage: DictConfig, train: Callable[[DictConfig], float]) -> Path:
    """Return the directory of a trained stage, which one process trains if necessary while others wait."""
    directory = directory_of(stage)
    stage.paths.run_dir = str(directory.absolute())
    finished, shown = directory / FINISHED, shell.shown(directory.absolute())
    if not starts_first():
        while not finished.is_file():
            time.sleep(0.5)
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    lock = directory.parent / f".{directory.name}.lock"
    with alone(lock, f"{path} waits for {shown}, which another run is training"):
        if finished.is_file():
            print(f"{path}: {shown} was trained before, {_in_words(json.loads(finished.read_text()))}", flush=True)
            return directory
        before = "resumes the training of" if (directory / FOLDER / LAST).is_file() else "needs and first trains"
        print(
            f"{path} {before} {stage.choices.model} on {stage.choices.dataset}, {stage.trainer.max_steps} steps; "
            f"it is kept in {shown} and found by later runs",
            flush=True,
        )
        try:
            result = train(stage)
        except Stopped:
            print(f"  the training of {path} was stopped; the same command resumes it", flush=True)
            raise
        headline = _headline(directory, result)
        write_text(finished, json.dumps(headline) + "\n")
        print(f"\n{path}: {shown} is trained, {_in_words(headline)}\n", flush=True)
    return directory


def directory_of(stage: DictConfig) -> Path:
    """Return the directory in which a stage is trained, and found by later runs, named by its :func:`identity`.

    Args:
        stage: the configuration of the stage's own training run.
    """
    return Path(stage.paths.output_dir) / "stages" / f"{stage.choices.model}_{identify(identity(stage))}"


def is_finished(directory: Path) -> bool:
    """Return whether the stage of a directory has been trained."""
    return (directory / FINISHED).is_file()


def _headline(directory: Path, result: float) -> dict[str, float]:
    """Return the first measured number of a stage, or its validation loss."""
    measured = directory / "metrics.json"
    numbers: dict[str, float] = json.loads(measured.read_text())["metrics"] if measured.is_file() else {}
    return dict(list(numbers.items())[:1]) or {"val/loss": result}


def _in_words(headline: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in headline.items())


def identity(stage: DictConfig) -> dict[str, Any]:
    """Return all that the weights of a stage (a trained model that a run needs) depend on, by name.

    It is the stage's resolved configuration and the fingerprint of its data. Settings of the place where it runs, of
    what is shown, and of what is done after training are left out.

    Args:
        stage: the configuration of the stage's own training run.
    """
    settled = stage.copy()
    settled.paths.update(dict.fromkeys(stage.paths, ""))  # also in values that refer to them
    content: dict[str, Any] = portable(OmegaConf.to_container(settled, resolve=True))
    for key in (*LIFE, *AFTERWARDS, *WITHIN):
        content.pop(key, None)
        content["model"].pop(key, None)
    for group in LATER:
        if content.get(group, {}).get("_target_") == NOTHING:  # as in stages of earlier releases
            content.pop(group)
    content["callbacks"] = {
        name: callback for name, callback in content["callbacks"].items() if not _watches(callback, stage)
    }
    content["trainer"] = {key: value for key, value in content["trainer"].items() if key not in TRAINER}
    content["dataset"].pop("num_workers", None)
    return {**content, "data": build_data(stage).fingerprint}


def _watches(callback: dict[str, Any], stage: DictConfig) -> bool:
    """Return whether a callback only shows progress, pictures or losses."""
    return is_of_kind(locate(callback["_target_"], stage.trust), WATCHING)
