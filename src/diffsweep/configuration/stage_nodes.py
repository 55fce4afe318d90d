"""Read stages: nodes of a configuration that stand for a trained model which the run requires.

Such a node is ``{_target_: diffsweep.configuration.loading.trained, _partial_: true, run: ..., train: ...,
inherit: ..., kind: ..., trust: ${trust}}``. Rules and checks read it here; :mod:`diffsweep.runs.stages` finds or trains
the model.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from diffsweep.autoencoders import Autoencoder
from diffsweep.callbacks.checkpoints import FOLDER, LAST
from diffsweep.configuration.check import STAGE, check, targets
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


class Stage(NamedTuple):
    """The properties of a stage that rules read.

    Attributes:
        node: the node of the run's configuration.
        cfg: the configuration of the stage's own run; None if no run is given and none can be trained.
        fingerprint: of the data that it is trained on.
        schedule: the noise schedule that it is trained under.
        space: the space that its model works in, or that its autoencoder makes.
        noise: how frames of clips share noise; None in runs saved before this was an option, whose frames share none.
    """

    node: DictConfig
    cfg: DictConfig | None = None
    fingerprint: str | None = None
    schedule: Schedule | None = None
    space: Autoencoder | None = None
    noise: ClipNoise | None = None

    @property
    def provides(self) -> frozenset[str]:
        """``reconstructions``, if the stage is an autoencoder that inherits the losses of its training."""
        return frozenset({"reconstructions"} if "perceptual" in (self.node.get("inherit") or ()) else ())


def stage_nodes(cfg: DictConfig) -> list[tuple[str, DictConfig]]:
    """Return the nodes that stand for trained models, with their full paths."""
    return [(path, node) for path, node in targets(cfg) if node._target_ == STAGE]


def run_key(path: str, node: DictConfig) -> str:
    """Return the key that gives a stage its run: its own ``run``, or the key that this refers to."""
    referred = re.fullmatch(r"\$\{([\w.]+)\}", str(node._get_node("run")))
    return referred[1] if referred else f"{path}.run"


def saved_config(run: str | Path, trust: Sequence[str] = ()) -> DictConfig:
    """Return the configuration of a trained run, checked and unresolved.

    Args:
        run: its directory.
        trust: packages besides diffsweep whose classes it may name; what the run itself trusts is ignored.

    Raises:
        UserError: it is no run, has no checkpoint, or names a class that may not be built.
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
    """Return the configuration of the run that is given for a stage.

    Raises:
        UserError: the run is missing, unfinished or not trusted; the message names the key to change.
    """
    try:
        return saved_config(node.run, cfg.trust)
    except UserError as error:
        key = run_key(path, node)
        other = f"; {key}=null finds or trains one" if node.get("train") is not None else ""
        raise UserError(f"{key}={node.run}: {error}. Give the directory of a trained run in {key}{other}") from error


def trainable_config(cfg: DictConfig, path: str, node: DictConfig) -> DictConfig:
    """Return the configuration that a stage is trained with.

    It is that of ``train.py`` with the overrides of the node, and with the groups that the node inherits from the run
    which requires it. It has a seed of its own, so that the runs of a sweep over seeds share it, and it trains on one
    device. ``paths.run_dir`` is not set.

    Args:
        cfg: of the run which requires the stage.
        path: the key of the node.
        node: with ``train`` and ``inherit``.

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
        stage = compose("train", ["logger=csv"] * ("logger" not in typed) + chosen + list(node.train))
    except UserError as error:
        raise UserError(f"{path}.train: {error}") from error
    with open_dict(stage):
        for group in inherited:
            _inherit(cfg, stage, group, typed)
        stage.trust, stage.paths, stage.sweep = list(cfg.trust), cfg.paths.copy(), "stages"
        if not {"trainer", "trainer.accelerator"} & set(typed):
            stage.trainer.accelerator = cfg.trainer.accelerator
        devices = cfg.trainer.devices
        stage.trainer.devices = [devices[0]] if OmegaConf.is_list(devices) else 1
    return stage


def _inherit(cfg: DictConfig, stage: DictConfig, group: str, typed: Sequence[str]) -> None:
    """Copy a group of the run that requires a stage into the stage, except keys that the stage's overrides set."""
    own, prefix = stage[group], f"{group}."
    stage[group] = OmegaConf.create(OmegaConf.to_container(cfg[group], resolve=False))  # type: ignore[arg-type]
    stage.choices[group] = cfg.choices.get(group)
    for key in (key.removeprefix(prefix) for key in typed if key.startswith(prefix)):
        OmegaConf.update(stage[group], key, OmegaConf.select(own, key), force_add=True)


def portable(content: Any) -> Any:
    """Return a plain, resolved configuration with stages identified by weights or recipe, not by directory."""
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
