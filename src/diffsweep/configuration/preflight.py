"""Check all of a configuration before a run starts: keys, types, values and combinations."""

from dataclasses import fields
from typing import Any

import torch
from omegaconf import DictConfig

from diffsweep.configuration import rules
from diffsweep.configuration.build import build, build_data, build_data_if_found, sized
from diffsweep.configuration.check import check, locate
from diffsweep.configuration.sizes import instantiated
from diffsweep.configuration.stage_nodes import Stage, given_config, stage_nodes, trainable_config
from diffsweep.datasets import ImageData
from diffsweep.diffusion import NetworkDenoiser
from diffsweep.errors import UserError
from diffsweep.guidance import guidances_of

SHOWN = ("dataset", "schedule", "noise")  # the parts of which preview.py makes pictures
APART = ("model", "backbone", "guidance", "stages", "task")  # of BuiltParts, but not built from the configuration alone


def preflight(cfg: DictConfig) -> None:
    """Raise a UserError unless the keys, types, values and combinations of a configuration are right.

    The parts are built, networks without memory for their weights (on the meta device), and then the rules on
    combinations are applied (:mod:`diffsweep.configuration.rules`). Models that the run would train first are checked
    as runs of their own. Nothing is written, no model is trained, and torch's generator on the CPU is left as it was.

    A command whose key ``strict`` is false (``preview.py``) shows the data of words that no model can be trained with:
    of its configuration the keys, types and values are checked here, and the parts of :data:`SHOWN` are built.

    Raises:
        UserError: in one line, with what to type instead.
    """
    if "model" not in cfg:  # of a command that builds nothing
        return
    if cfg.get("strict", True):
        preflight_training(cfg)
        return
    for group in SHOWN:
        build(cfg, group)


def preflight_training(cfg: DictConfig) -> None:
    """Raise a UserError unless a model can be trained with a configuration; :func:`preflight` describes the checks.

    Raises:
        UserError: in one line, with what to type instead.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            cfg = sized(cfg)
        except UserError:
            _data_of(cfg)  # missing data are the first cause of sizes that do not fit, and are reported instead
            raise
        try:
            optimizer = instantiated(cfg, "optimizer")([torch.nn.Parameter(torch.zeros(1))])
        except (TypeError, ValueError) as error:
            settings = ", ".join(
                f"{key}={value}" for key, value in cfg.optimizer.items() if not str(key).startswith("_")
            )
            raise UserError(f"optimizer: {error}; its settings are {settings}") from error
        try:
            instantiated(cfg, "lr_scheduler")(optimizer)
        except (TypeError, ValueError) as error:
            raise UserError(f"lr_scheduler={cfg.choices.lr_scheduler}: {error}") from error
        parts = parts_of(cfg)
    rules.apply(cfg, parts)


def parts_of(cfg: DictConfig) -> rules.BuiltParts:
    """Build the parts that the groups of a configuration describe, as the rules on their combinations require them.

    The network is on the meta device, which has shapes without memory, and of the model only the class is given.

    Args:
        cfg: a checked configuration with the sizes that :func:`~diffsweep.configuration.build.sized` fills in.

    Raises:
        UserError: a constructor refuses a value, or a model that the run would train first is refused.
    """
    built: dict[str, Any] = {}
    for group in (field.name for field in fields(rules.BuiltParts) if field.name not in APART):
        empty = group != "callbacks" and "_target_" not in cfg[group]  # metrics=none and likelihood=none
        built[group] = None if empty else instantiated(cfg, group) if group != "dataset" else _data_of(cfg)
    with torch.device("meta"):  # shapes without memory
        backbone = instantiated(cfg, "backbone")
    denoiser = NetworkDenoiser(backbone, built["schedule"], built["prediction"], built["noise"])
    try:
        with torch.no_grad():
            times = built["sampler"].times(built["schedule"])
            guidance = guidances_of(instantiated(cfg, "guidance")(denoiser, times=times))
    except ValueError as error:  # times that are not the schedule's, or other than one scale for each step
        raise UserError(str(error)) from error
    model = locate(cfg.model._target_, list(cfg.trust))
    task = instantiated(cfg, "task") if "task" in cfg and cfg.task is not None else None
    built |= {"model": model, "backbone": backbone, "guidance": guidance, "stages": stages_of(cfg), "task": task}
    return rules.BuiltParts(**built)


def _data_of(cfg: DictConfig) -> ImageData:
    """Return the dataset of a configuration; of one of ``sample.py``, which needs no data, it may be absent."""
    return build_data_if_found(cfg) if "task" in cfg else build_data(cfg)


def stages_of(cfg: DictConfig) -> dict[str, Stage]:
    """Return the stages of a configuration, which are trained models that its run requires, by their paths.

    Examples are the noisy classifier at ``guidance.classifier`` and the autoencoder at ``autoencoder.model``. A stage
    with a given run has the configuration of that run. A stage that is to be trained is checked as a run of its own. A
    stage with neither has no configuration, which a rule refuses.

    Raises:
        UserError: a given run cannot be used, or the configuration of a stage is refused.
    """
    stages = {}
    for path, node in stage_nodes(cfg):
        if node.get("run") is not None:
            stage = given_config(cfg, path, node)
        elif node.get("train") is not None:
            stage = trainable_config(cfg, path, node)
            try:
                preflight(stage)
            except UserError as error:
                raise UserError(f"{path}.train: {error}") from error
        else:
            stages[path] = Stage(node)
            continue
        check(stage)
        parts = (
            instantiated(stage, group) if group in stage else None for group in ("schedule", "autoencoder", "noise")
        )
        stages[path] = Stage(
            node, stage, (build_data_if_found if "task" in cfg else build_data)(stage).fingerprint, *parts
        )
    return stages
