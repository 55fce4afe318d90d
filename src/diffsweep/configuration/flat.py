"""Write a configuration as flat keys, as they are typed: ``{"schedule": "linear", "schedule.num_steps": 1000}``."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffsweep.configuration.compose import compose
from diffsweep.configuration.conf import chosen_by, defaults, leaves, options
from diffsweep.configuration.saved import load_config

SECRET = "(from the environment)"
ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\b")
OF_PLACES = re.compile(r"\$\{\s*paths\.")
ABSOLUTE = re.compile(r"(?<![\w.:/~-])~?/[^\s,\[\]{}'\"=]+")  # of a path that begins a word
STAGES = "stages"  # the folder of models that runs have trained because they require them
PLACES = ("paths", "logger", "trust", "resume_from", "output", "sweep", "choices")  # of a run, and not of its results
FORM = ("_target_", "_partial_", "_convert_")  # what the choice of an option decides
AROUND = (
    *PLACES,
    "trainer",
    "callbacks",
    "space",
    "condition",
    "verify",
    "batch_size",
    "halve_batch",
    "plan",
)  # that names leave out
SETTINGS_OF_TRAINER = ("max_steps", "precision", "gradient_clip_val", "accumulate_grad_batches")  # of its results


def flat(cfg: DictConfig) -> dict[str, Any]:
    """Return the choices and resolved values of a configuration by keys as a user types them.

    A group has the option that is chosen in it (``schedule``: ``linear``), and its keys follow (``schedule.beta_end``:
    0.02). Each value occurs once: groups that a model refers to are listed on their own alone. Values from the
    environment may be secret and are left out, as are folders of the run; of an absolute path the last name remains.
    Classes are not listed, but those of packages in ``trust``.

    Args:
        cfg: a checked configuration; sizes that are filled in later have the value that they have now.
    """
    choices = {str(group): option for group, option in cfg.choices.items() if group not in PLACES and option}
    hidden = OmegaConf.create(_without_environment(OmegaConf.to_container(cfg, resolve=False)))
    assert isinstance(hidden, DictConfig)
    trusted = tuple(f"{package}." for package in cfg.trust)
    found = {}
    for key, raw in leaves(OmegaConf.to_container(hidden, resolve=False)):
        if key.partition(".")[0] in PLACES or OF_PLACES.search(str(raw)):
            continue
        try:
            value = OmegaConf.select(hidden, key, throw_on_missing=True)
        except OmegaConfBaseException:  # it has no value before the run is built
            continue
        if isinstance(value, DictConfig):  # refers to a group, which is listed on its own
            continue
        if key.rpartition(".")[2] in FORM and not str(value).startswith(trusted or (" ",)):
            continue
        found[key] = _without_places(OmegaConf.to_container(value, resolve=True) if _is_list(value) else value)
    return {**choices, **found}


def without_folders(text: str) -> str:
    """Return a text in which each absolute path is replaced by its last name."""
    return ABSOLUTE.sub(lambda match: PurePath(match[0]).name, text)


def differences(cfg: DictConfig, run: str | None = None) -> dict[str, Any]:
    """Return the choices and values of a configuration that are not the defaults, by key, in the order of the choices.

    Settings that follow from other choices, such as the backbone of a model or the steps of ``debug=fast``, do not
    count, nor does where and how the run is carried out (folders, loggers, devices, callbacks).

    Args:
        cfg: the configuration of ``train``, or of a command that uses a run.
        run: the directory of the run, whose configuration is then compared with, in place of the defaults.
    """
    base = _defaults_of(cfg) if run is None else load_config(run)
    usual = _usual_choices(cfg) if run is None else base.choices
    changed = {
        str(group): option
        for group, option in cfg.choices.items()
        if group not in AROUND and option and option != usual.get(group) and group != "task"
    }
    if "task" in cfg.choices and cfg.choices.task != defaults("sample").get("task"):
        changed["task"] = cfg.choices.task
    own, others = (dict(leaves(OmegaConf.to_container(each, resolve=False))) for each in (cfg, base))
    for key, value in own.items():
        group, _, last = key.partition(".")
        counts = group not in AROUND or (group == "trainer" and last in SETTINGS_OF_TRAINER)
        of_another_option = run is not None and group in changed
        of_no_interest = of_another_option or _hides(value) or _found_by_its_hash(key, value)
        if counts and key in others and value != others[key] and not of_no_interest:
            changed[key] = _without_places(value)
    return changed


def _defaults_of(cfg: DictConfig) -> DictConfig:
    """Return the configuration of ``train`` with the same options and no other change."""
    chosen = [f"{group}={option}" for group, option in cfg.choices.items() if option in options(str(group))]
    return compose("train", [word for word in chosen if word.partition("=")[0] in defaults("train")])


def _usual_choices(cfg: DictConfig) -> dict[str, Any]:
    """Return the option of each group that follows from the model, experiment and debug that are chosen."""
    usual: dict[str, Any] = dict(defaults("train"))
    for kind in ("model", "experiment", "debug"):
        usual.update(chosen_by(kind, str(cfg.choices.get(kind))))
    return usual


def _found_by_its_hash(key: str, value: Any) -> bool:
    """Return whether a value is the directory of a trained model that a run has found or trained by itself."""
    return key.endswith(".run") and isinstance(value, str) and PurePath(value).parent.name == STAGES


def _hides(value: Any) -> bool:
    return isinstance(value, str) and ENVIRONMENT.search(value) is not None


def _without_environment(node: Any) -> Any:
    """Return nested dicts and lists without the values that are read from the environment."""
    if isinstance(node, Mapping):
        return {key: _without_environment(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_environment(item) for item in node]
    return SECRET if _hides(node) else node


def _without_places(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    return without_folders(value) if isinstance(value, str) else value


def _is_list(value: Any) -> bool:
    return isinstance(value, ListConfig)
