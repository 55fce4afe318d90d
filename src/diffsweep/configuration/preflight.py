"""Everything that can be known to be wrong before a run starts: keys, types, values and combinations."""

import torch
from omegaconf import DictConfig

from diffsweep.configuration import rules
from diffsweep.configuration.build import build_data, instantiated, sized
from diffsweep.configuration.check import check, locate
from diffsweep.configuration.stage_nodes import Stage, given_config, stage_nodes, trainable_config
from diffsweep.errors import UserError


def preflight(cfg: DictConfig) -> None:
    """Everything that can be known to be wrong before a run starts: keys, types, values and combinations.

    Raises:
        UserError: in one line, with what to use instead.
    """
    with torch.random.fork_rng(devices=[]):
        cfg = sized(cfg)
        looked_at = ("schedule", "noise", "prediction", "sampler", "dataset", "objective", "weighting", "time_sampling")
        parts = {group: instantiated(cfg, group) for group in (*looked_at, "conditioning", "guidance", "autoencoder")}
        parts |= {
            group: instantiated(cfg, group)
            for group in ("metrics", "likelihood", "callbacks", "perceptual", "discriminator")
        }
        try:
            instantiated(cfg, "optimizer")([torch.nn.Parameter(torch.zeros(1))])
        except ValueError as error:
            raise UserError(f"optimizer.lr={cfg.optimizer.get('lr')}, or another of its settings: {error}") from error
        with torch.device("meta"):  # shapes only: a large network costs nothing
            parts["backbone"] = instantiated(cfg, "backbone")
        parts["model"] = locate(cfg.model._target_, list(cfg.trust))  # its class
        parts["stages"] = stages_of(cfg)
        parts["task"] = instantiated(cfg, "task") if "task" in cfg else None
    rules.apply(cfg, parts)


def stages_of(cfg: DictConfig) -> dict[str, Stage]:
    """The stages of a configuration by their paths; those that would be trained are checked as runs of their own are."""
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
        stages[path] = Stage(node, stage, build_data(stage).fingerprint, *parts)
    return stages
