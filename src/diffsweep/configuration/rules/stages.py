"""Rules on stages: trained models that a run requires, given by their run or trained first."""

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
    """Return an error message if a model that the run requires has neither a run nor overrides that train it."""
    for path, stage in parts.stages.items():
        if stage.cfg is None:
            return (
                f"{run_key(path, stage.node)} is missing: give the directory of a trained run, or overrides that train "
                f"one, quoted: '{path}.train=[\"trainer.max_steps=200\"]'"
            )
    return None


@rule
def stages_are_of_the_required_class(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a trained model that the run requires is of another class than the part requires."""
    for path, stage in parts.stages.items():
        if kind := stage.node.get("kind"):
            found, wanted = locate(stage.cfg.model._target_, cfg.trust), locate(kind, cfg.trust)
            if not is_of_kind(found, wanted):
                classes = f"of class {found.__name__}, and class {wanted.__name__} is required"
                return f"{_stage(path, stage)} is {classes}; give another run in {run_key(path, stage.node)}"
    return None


@rule
def stages_match_the_data(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a model that the run requires, such as a classifier, was trained on other data.

    Models that should be trained on the data of the run inherit ``dataset``; others are not checked. A model that
    supports the capability ``other_data``, as autoencoders do, is accepted.
    """
    data = parts.dataset.fingerprint
    for path, stage in parts.stages.items():
        known = "dataset" not in (stage.node.get("inherit") or ()) or stage.fingerprint == data
        if not known and "other_data" not in declared_by(locate(stage.cfg.model._target_, cfg.trust)).supports:
            theirs, ours = stage.cfg.choices.dataset, cfg.choices.dataset
            known = f"dataset={theirs} ({stage.fingerprint}), and this run has dataset={ours} ({data})"
            return f"{_stage(path, stage)} was trained on {known}; use dataset={theirs}, or {_another(path, stage)}"
    return None


@note
def latents_are_standardised_by_this_data(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return a warning if the latents are standardised by the mean and standard deviation of other data.

    These are of the data that the autoencoder was trained on.
    """
    for path, stage in parts.stages.items():
        if "dataset" in (stage.node.get("inherit") or ()) and stage.fingerprint != parts.dataset.fingerprint:
            return (
                f"{_stage(path, stage)} was trained on dataset={stage.cfg.choices.dataset} ({stage.fingerprint}), and "
                f"this run has dataset={cfg.choices.dataset}: its latents are standardised by the other data"
            )
    return None


@rule
def stages_match_the_space(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a model that the run requires was trained in another space, pixels or latents.

    Compared are the channels of images, the channels of the space, and the factor by which its images are smaller.
    Models that do not inherit ``autoencoder`` are not checked.
    """
    for path, stage in parts.stages.items():
        inherited = "autoencoder" in (stage.node.get("inherit") or ()) and stage.cfg is not None
        if inherited and (difference := parts.autoencoder.differs_from(stage.space)):
            fix = f"leave these as it has them, or {_another(path, stage)}"
            return f"{_stage(path, stage)} does not fit: {difference}; {fix}"
    return None


@rule
def stages_match_the_schedule(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a model of noisy data that the run requires has another noise schedule.

    Models that inherit ``schedule`` are such, for example the classifier of guidance. A learned schedule is refused,
    since it changes in training.
    """
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    for path, stage in parts.stages.items():
        if "schedule" in (stage.node.get("inherit") or ()):
            theirs, ours = stage.schedule, parts.schedule
            if theirs.learned or ours.learned:
                reason = f"a learned schedule changes in training, so {_stage(path, stage)} cannot share it"
                return f"{reason}; use another schedule"
            levels = zip(theirs(t), ours(t), strict=True)
            if theirs.num_steps != ours.num_steps or not all(
                torch.allclose(a, b, rtol=0, atol=1e-9) for a, b in levels
            ):
                known = f"{_spoken(stage.cfg, theirs)}, and this run has {_spoken(cfg, ours)}"
                return f"{_stage(path, stage)} was trained under {known}; use the same, or {_another(path, stage)}"
    return None


@rule
def stages_match_the_noise(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a model of noisy clips that the run requires has another noise covariance of frames.

    Models that inherit ``schedule`` are of noisy data, for example the weaker model of autoguidance.
    """
    frames = cfg.space.num_frames or 1
    for path, stage in parts.stages.items():
        if "schedule" in (stage.node.get("inherit") or ()):
            theirs = (stage.noise or INDEPENDENT).covariance(frames)
            if not torch.equal(theirs, parts.noise.covariance(frames)):
                known = stage.cfg.choices.get("noise", "independent")
                return (
                    f"{_stage(path, stage)} was trained with noise={known}, and this run has "
                    f"noise={cfg.choices.noise}, or another share of it; use the same, or {_another(path, stage)}"
                )
    return None


def _stage(path: str, stage: Any) -> str:
    """Return a stage as the user gave it."""
    run = stage.node.get("run")
    return f"{run_key(path, stage.node)}={run}" if run is not None else f"the model that {path}.train describes"


def _another(path: str, stage: Any) -> str:
    """Return what to type for a stage that fits."""
    if stage.node.get("run") is None:
        return f"leave it out of {path}.train"
    if stage.node.get("train") is None:
        return f"give another run in {run_key(path, stage.node)}"
    return f"{run_key(path, stage.node)}=null, which finds or trains one that fits"


def _spoken(cfg: DictConfig, schedule: Any) -> str:
    """Return a schedule as the user chose it."""
    return f"schedule={cfg.choices.schedule}" + (f" of {schedule.num_steps} steps" if schedule.num_steps else "")
