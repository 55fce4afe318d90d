"""Read stages: nodes of a configuration that stand for a trained model which the run requires.

Such a node is ``{_target_: diffsweep.configuration.loading.trained, _partial_: true, run: ..., train: ...,
inherit: ..., kind: ..., trust: ${trust}}``. Rules and checks read it here; :mod:`diffsweep.runs.stages` finds or trains
the model.
"""

import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from diffsweep.adaptation import has_all_weights
from diffsweep.autoencoders import Autoencoder
from diffsweep.callbacks.checkpoints import FOLDER, LAST
from diffsweep.configuration.check import STAGE, check, locate, targets
from diffsweep.configuration.compose import compose
from diffsweep.configuration.conf import groups, options
from diffsweep.configuration.explain import explained
from diffsweep.configuration.run_source import OWN
from diffsweep.configuration.saved import load_config
from diffsweep.diffusion import ClipNoise
from diffsweep.errors import UserError
from diffsweep.schedules import Schedule

CLOSED = (
    "trust",
    "paths",
    "run",
    "resume",
    "resume_from",
    "sweep",
    "choices",
    "hydra",
)  # keys that a stage may not set
ALWAYS = ("debug",)  # groups that every stage inherits: a short run has short stages
BUCKETS = "dataset.buckets"


class Stage(NamedTuple):
    """A stage, which is a trained model that a run requires, with the properties of it that rules compare with the run.

    Attributes:
        node: the mapping in the run's configuration that describes the stage (``guidance.classifier``): its run, or the
            overrides that train it.
        cfg: the configuration of the stage's own run; None if no run is given and none can be trained.
        fingerprint: a text that identifies the data that the stage is trained on; None without ``cfg``, as all below.
        schedule: the noise schedule that it is trained under.
        space: the autoencoder, or the identity, in whose latents its model works, or which it trains.
        noise: how frames of clips share noise; None too in runs saved before this was an option, whose frames share
            none.
    """

    node: DictConfig
    cfg: DictConfig | None = None
    fingerprint: str | None = None
    schedule: Schedule | None = None
    space: Autoencoder | None = None
    noise: ClipNoise | None = None

    @property
    def provides(self) -> frozenset[str]:
        """The capabilities of training an autoencoder if the stage is one, which inherits ``perceptual``; else none."""
        trained = "perceptual" in (self.node.get("inherit") or ())
        return frozenset({"reconstructions", "compared_images"} if trained else ())


def stage_nodes(cfg: DictConfig) -> list[tuple[str, DictConfig]]:
    """Return the mappings in a configuration that stand for trained models, each with its full path.

    Their ``_target_`` is :func:`diffsweep.configuration.loading.trained`, and a path is such as
    ``guidance.classifier``. A model that the command does not use, and whose run is not where it was, is left out: in
    ``sample.py`` a model that only measures, and in all commands that do not train the teacher of a student, and the
    base of a model whose checkpoints have all weights.
    """
    unused = [] if cfg.get("task") is None else ["metrics."]
    if "replay" not in cfg:  # no training
        unused += ["teacher.", *(["adaptation."] if has_all_weights(cfg.get("adaptation", {})) else [])]
    nodes = [(path, node) for path, node in targets(cfg) if node._target_ == STAGE]
    return [(path, node) for path, node in nodes if not (path.startswith(tuple(unused)) and _is_gone(node))]


def _is_gone(node: DictConfig) -> bool:
    run = node.get("run")
    return run is not None and not Path(run).is_dir()


def run_key(path: str, node: DictConfig) -> str:
    """Return the key with which a user gives the run of a stage, a trained model that another run requires.

    Args:
        path: the full path of the stage's mapping.
        node: the mapping.

    Returns:
        the key to which its ``run`` refers (``autoencoder.run``), or else its own key, ``PATH.run``.
    """
    referred = re.fullmatch(r"\$\{([\w.]+)\}", str(node._get_node("run")))
    return referred[1] if referred else f"{path}.run"


def saved_config(run: str | Path, trust: Sequence[str] = ()) -> DictConfig:
    """Return the configuration that a finished run has saved, checked and with interpolations unresolved.

    Args:
        run: the directory of the run.
        trust: packages besides diffsweep whose classes the configuration may name; what the run trusted is ignored.

    Raises:
        UserError: the directory is no run, has no checkpoint, or its configuration names a class that may not be built.
    """
    cfg = load_config(run)
    if not (Path(run) / FOLDER / LAST).is_file():
        raise UserError(f"{run} is unfinished: it has no {FOLDER}/{LAST}")
    try:
        with open_dict(cfg):
            cfg.trust = list(trust)
            cfg.paths.run_dir = str(Path(run).absolute())
        check(cfg)
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration of {run} cannot be read: {str(error).splitlines()[0]}") from error
    return cfg


def given_config(cfg: DictConfig, path: str, node: DictConfig) -> DictConfig:
    """Return the configuration of the run that the user gives for a stage, a trained model that another run requires.

    Args:
        cfg: the configuration of the run that requires the stage.
        path: the full path of the stage's mapping in ``cfg``.
        node: the mapping, whose ``run`` is the directory of the given run.

    Raises:
        UserError: the given run is missing, unfinished or not trusted; the message names the key to change.
    """
    try:
        return saved_config(node.run, cfg.trust)
    except UserError as error:
        key = run_key(path, node)
        other = f"; {key}=null finds or trains one" if node.get("train") is not None else ""
        raise UserError(f"{key}={node.run}: {error}. Give the directory of a trained run in {key}{other}") from error


def trainable_config(cfg: DictConfig, path: str, node: DictConfig) -> DictConfig:
    """Return the configuration with which ``train.py`` would train a stage, a model that another run requires.

    It is composed with the overrides in ``train`` of the stage's mapping, and takes the groups in ``inherit`` from the
    run that requires the stage, except what the overrides set. The seed is not that run's, so that the runs of a sweep
    over seeds share the stage, and training is on one device. ``paths.run_dir`` is to be set by the caller.

    Args:
        cfg: the configuration of the run that requires the stage.
        path: the full path of the stage's mapping in ``cfg``, with which error messages begin.
        node: the mapping, with ``train`` and ``inherit``.

    Raises:
        UserError: an override is wrong, or sets a key that a stage may not set.
    """
    try:
        with explained("train", node.train):
            parsed = OverridesParser.create().parse_overrides([str(override) for override in node.train])
        typed = [override.key_or_group for override in parsed]
        if refused := [key for key in typed if key.replace("/", ".").partition(".")[0] in CLOSED]:
            raise UserError(f"a stage may not set {', '.join(refused)}; leave it out")
        inherited = [str(group) for group in node.get("inherit") or ()]
        if unknown := [group for group in inherited if group not in groups() or group not in cfg or group in OWN]:
            raise UserError(
                f"inherit: no group named {', '.join(unknown)}; a stage inherits groups of its run, such as dataset"
            )
        inherited = [group for group in inherited if group not in typed]
        choices = {group: str(cfg.choices.get(group)) for group in (*inherited, *ALWAYS) if group not in typed}
        chosen = [f"{group}={option}" for group, option in choices.items() if option in options(group)]
        words = ["logger=csv"] * ("logger" not in typed) + chosen + [str(override) for override in node.train]
        stage = _composed(*words).copy()
    except UserError as error:
        raise UserError(f"{path}.train: {error}") from error
    with open_dict(stage):
        for group in inherited:
            _inherit(cfg, stage, group, typed)
        _train_on_squares(stage, typed)
        stage.trust, stage.paths, stage.sweep = list(cfg.trust), cfg.paths.copy(), "stages"
        if not {"trainer", "trainer.accelerator"} & set(typed):
            stage.trainer.accelerator = cfg.trainer.accelerator
        devices = cfg.trainer.devices
        stage.trainer.devices = [devices[0]] if OmegaConf.is_list(devices) else 1
    if any(inner.get("run") is None and inner.get("train") == node.train for _, inner in stage_nodes(stage)):
        usual = "model=autoencoder_kl, autoencoder.model=null" if path.startswith("autoencoder") else "model=classifier"
        raise UserError(f"{path}.train: the stage would require itself; begin its overrides with those of {usual}")
    return stage


@functools.lru_cache(maxsize=32)  # 0.2 s, and each job of a sweep has the same stages
def _composed(*words: str) -> DictConfig:
    """Return the configuration that ``train.py`` composes of overrides; callers must copy it before they change it."""
    return compose("train", words)


def _inherit(cfg: DictConfig, stage: DictConfig, group: str, typed: Sequence[str]) -> None:
    """Copy a group of the run that requires a stage into the stage, except keys that the stage's overrides set."""
    own, prefix = stage[group], f"{group}."
    stage[group] = OmegaConf.create(OmegaConf.to_container(cfg[group], resolve=False))  # type: ignore[arg-type]
    stage.choices[group] = cfg.choices.get(group)
    for key in (key.removeprefix(prefix) for key in typed if key.startswith(prefix)):
        OmegaConf.update(stage[group], key, OmegaConf.select(own, key), force_add=True)


def _train_on_squares(stage: DictConfig, typed: Sequence[str]) -> None:
    """Let a stage train on squares where the run has buckets of aspect ratios, and the stage's network takes none."""
    target = (stage.get("backbone") or {}).get("_target_")
    supports = getattr(locate(target, stage.trust), "supports", ()) if target is not None else ()
    if stage.dataset.get("buckets") is not None and BUCKETS not in typed and "aspect_ratios" not in supports:
        OmegaConf.update(stage, BUCKETS, None)


def portable(content: Any) -> Any:
    """Return a resolved configuration, in dicts and lists, without directories of trained models that it requires.

    Each such model is identified by a hash of its checkpoint, or if it has none yet by the overrides that train it. So
    equal configurations stay equal on another machine.
    """
    if isinstance(content, list):
        return [portable(item) for item in content]
    if not isinstance(content, dict):
        return content
    if content.get("_target_") != STAGE:
        of_a_stage = {
            value.get("run") for value in content.values() if isinstance(value, dict) and value.get("_target_") == STAGE
        }
        kept = {key: value for key, value in content.items() if key != "run" or value not in of_a_stage}
        return {key: portable(value) for key, value in kept.items()}
    checkpoint = Path(content.get("run") or "") / FOLDER / LAST
    if content.get("run") and checkpoint.is_file():
        return {"_target_": STAGE, "weights": _digest(checkpoint)}
    return {key: value for key, value in content.items() if key not in ("trust", "run")}


def _digest(path: Path) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:12]
