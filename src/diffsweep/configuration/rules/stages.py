"""Trained models that a run needs: given by a run, or trained first."""

from typing import Any

import torch
from omegaconf import DictConfig

from diffsweep.capabilities import declared_by
from diffsweep.configuration.check import is_of_kind, locate
from diffsweep.configuration.rules.base import BuiltParts, note, rule
from diffsweep.configuration.stage_nodes import run_key
from diffsweep.diffusion import INDEPENDENT


@rule
def stages_are_given_or_trainable(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """A model that nothing says how to train must be there."""
    for path, stage in parts.stages.items():
        if stage.cfg is None:
            return (
                f"{run_key(path, stage.node)} is missing: give the directory of a trained run, or overrides that train one, quoted: "
                f"'{path}.train=[\"trainer.max_steps=200\"]'"
            )
    return None


@rule
def stages_are_of_the_required_class(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """What needs a model says of which class."""
    for path, stage in parts.stages.items():
        if kind := stage.node.get("kind"):
            found, wanted = locate(stage.cfg.model._target_, cfg.trust), locate(kind, cfg.trust)
            if not is_of_kind(found, wanted):
                return f"{_stage(path, stage)} is a {found.__name__}, and a {wanted.__name__} is needed; give a run of one in {run_key(path, stage.node)}"
    return None


@rule
def stages_match_the_data(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """A model says nothing of data that it was not trained on, unless it transfers."""
    data = parts.dataset.fingerprint
    for path, stage in parts.stages.items():
        known = "dataset" not in (stage.node.get("inherit") or ()) or stage.fingerprint == data
        if not known and "other_data" not in declared_by(locate(stage.cfg.model._target_, cfg.trust)).supports:
            theirs, ours = stage.cfg.choices.dataset, cfg.choices.dataset
            told = f"dataset={theirs} ({stage.fingerprint}), and this run has dataset={ours} ({data})"
            return f"{_stage(path, stage)} knows {told}; use dataset={theirs}, or {_another(path, stage)}"
    return None


@note
def latents_are_standardised_by_this_data(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Latents of other data have another mean and deviation than they were standardised by."""
    for path, stage in parts.stages.items():
        if "dataset" in (stage.node.get("inherit") or ()) and stage.fingerprint != parts.dataset.fingerprint:
            return (
                f"{_stage(path, stage)} knows dataset={stage.cfg.choices.dataset} ({stage.fingerprint}), and this run has "
                f"dataset={cfg.choices.dataset}: its latents are standardised by the other data"
            )
    return None


@rule
def stages_match_the_space(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """What one model makes or reads of a space, the other has to mean too."""
    for path, stage in parts.stages.items():
        inherited = "autoencoder" in (stage.node.get("inherit") or ()) and stage.cfg is not None
        if inherited and (told := parts.autoencoder.differs_from(stage.space)):
            return f"{_stage(path, stage)} does not fit: {told}; leave these as it has them, or {_another(path, stage)}"
    return None


@rule
def stages_match_the_schedule(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """A model of noisy data knows the noise of one schedule."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    for path, stage in parts.stages.items():
        if "schedule" in (stage.node.get("inherit") or ()):
            theirs, ours = stage.schedule, parts.schedule
            if theirs.learned or ours.learned:
                return f"a learned schedule is its own model's, and {_stage(path, stage)} has to know this run's; use another schedule"
            levels = zip(theirs(t), ours(t), strict=True)
            if theirs.num_steps != ours.num_steps or not all(
                torch.allclose(a, b, rtol=0, atol=1e-9) for a, b in levels
            ):
                told = f"{_spoken(stage.cfg, theirs)}, and this run has {_spoken(cfg, ours)}"
                return f"{_stage(path, stage)} knows {told}; use the same, or {_another(path, stage)}"
    return None


@rule
def stages_match_the_noise(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """A model of noisy data knows the noise that frames share, too."""
    frames = cfg.space.num_frames or 1
    for path, stage in parts.stages.items():
        if "schedule" in (stage.node.get("inherit") or ()):
            theirs = (stage.noise or INDEPENDENT).covariance(frames)
            if not torch.equal(theirs, parts.noise.covariance(frames)):
                known = stage.cfg.choices.get("noise", "independent")
                return (
                    f"{_stage(path, stage)} knows noise={known}, and this run has noise={cfg.choices.noise}, or another share of it; use the "
                    f"same, or {_another(path, stage)}"
                )
    return None


def _stage(path: str, stage: Any) -> str:
    """A stage as the user gave it."""
    run = stage.node.get("run")
    return f"{run_key(path, stage.node)}={run}" if run is not None else f"the model that {path}.train describes"


def _another(path: str, stage: Any) -> str:
    """What gives a stage that fits."""
    if stage.node.get("run") is None:
        return f"leave it out of {path}.train"
    if stage.node.get("train") is None:
        return f"give another run in {run_key(path, stage.node)}"
    return f"{run_key(path, stage.node)}=null, which finds or trains one that fits"


def _spoken(cfg: DictConfig, schedule: Any) -> str:
    """A schedule as the user chose it."""
    return f"schedule={cfg.choices.schedule}" + (f" of {schedule.num_steps} steps" if schedule.num_steps else "")
