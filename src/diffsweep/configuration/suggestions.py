"""Suggest what to type instead of a wrong option or key: the nearest, or the full key if its group was left out."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffsweep.configuration import texts
from diffsweep.configuration.comments import text_of
from diffsweep.configuration.conf import (
    CONF,
    DEFAULTS,
    SELECTORS,
    chosen_by,
    defaults,
    groups,
    keys,
    options,
    parents,
    settings,
    targets,
)
from diffsweep.configuration.declarations import families
from diffsweep.configuration.saved import saved_of
from diffsweep.configuration.spelling import closest, nearest
from diffsweep.errors import UserError

COMMANDS = ("train", "sample", "evaluate", "export", "compare", "verify", "benchmark")  # the usual ones first
FEW = 4  # full keys that a message names
PLUGINS = {  # the packages that bring options of Hydra's groups
    "hydra/launcher": {
        **dict.fromkeys(("submitit_slurm", "submitit_local"), "hydra-submitit-launcher"),
        **{"joblib": "hydra-joblib-launcher", "ray": "hydra-ray-launcher", "rq": "hydra-rq-launcher"},
    },
    "hydra/sweeper": {name: f"hydra-{name}-sweeper" for name in ("ax", "nevergrad")},
}


def no_such_option(group: str, option: str) -> UserError:
    """Return the error for an option that a configuration group does not have, which lists those that it has."""
    near = nearest(option, options(group), cutoff=0.7)  # the list follows: nothing that is only a little alike
    return UserError(f"{group}={option}: no such option{near or ';'} {group} has {', '.join(texts.folded(group))}")


def no_such_hydra_option(group: str, option: str) -> UserError:
    """Return the error for an option that a group of Hydra's (``hydra/launcher``) does not have.

    The message names the options that are installed, and the packages to install for others.
    """
    import hydra  # here: help should not wait for it
    from hydra.core.config_store import ConfigStore

    folder = Path(hydra.__file__).parent / "conf" / group
    stored = ConfigStore.instance().list(group) if group in PLUGINS else []
    installed = sorted({Path(name).stem for name in (*stored, *(path.name for path in folder.glob("*.yaml")))})
    packages = {name: package for name, package in PLUGINS.get(group, {}).items() if name not in installed}
    listed = f"installed: {', '.join(installed) or 'none'}"
    if option in packages:
        return UserError(f"{group}={option} is not installed: pip install {packages[option]}; {listed}")
    if near := closest(option, [*installed, *packages], cutoff=0.7):
        needed = f" pip install {packages[near]};" if near in packages else ""
        return UserError(f"{group}={option}: no such option, did you mean {near}?{needed} {listed}")
    more = [f"pip install {package} for {_named(packages, package)}" for package in dict.fromkeys(packages.values())]
    return UserError(f"{group}={option}: no such option; {'; '.join([listed, *more])}")


def _named(packages: Mapping[str, str], package: str) -> str:
    """Return the options that a package brings."""
    return ", ".join(name for name, its in packages.items() if its == package)


def no_such_key(key: str, command: str, overrides: Sequence[str] = ()) -> UserError:
    """Return the error for a key that a command's configuration does not have.

    The message names the options that have the key, if any, or else keys that are spelled like it.

    Args:
        key: the key as typed, with dots.
        command: the command, such as ``train``.
        overrides: of the command line, which choose options.
    """
    if key in SELECTORS:
        return UserError(
            f"{key}: src/{command}.py takes no run; type the settings that it is to use, such as model=edm"
        )
    group, _, name = key.partition(".")
    choices = chosen(command, overrides)
    with_it = [option for option in options(group) if name and name in settings(group, option)]
    with_it = [
        option for option in with_it if not any(name in settings(group, above) for above in parents(group, option))
    ]
    if with_it:
        own = f"{group}={choices.get(group)}"
        also = f", or add it: +{key}=VALUE" if _is_taken(group, choices.get(group), name) else ""
        have = "has" if len(with_it) == 1 else "have"
        return UserError(f"{key}: {own} has no such key; {group}={', '.join(with_it)} {have} it{also}")
    if name and _is_taken(group, choices.get(group), name):
        return UserError(f"{key}: no option sets it; add it: +{key}=VALUE")
    return UserError(f"{key}: no such key{where(key, command, choices)}")


def where(key: str, command: str, choices: Mapping[str, Any] | None = None) -> str:
    """Return the end of an error message on an unknown key: keys that the user may mean, or groups that have it.

    Args:
        key: the key as typed, with dots.
        command: the command, such as ``train``, whose configuration does not have it.
        choices: the option of each group; None for the defaults.

    Returns:
        for example ", did you mean sampler.steps?"; empty if nothing is near.
    """
    choices = chosen(command, ()) if choices is None else choices
    (group, _, rest), name = key.partition("."), key.rpartition(".")[2]
    known = keys_of(command, choices)
    found = [full for full in known if full.endswith(f".{key}")] or [k for k in known if k.endswith(f".{name}")]
    found = [full for full in found if not str(known[full]).startswith("${")] or found  # those that follow no other key
    own = [full.removeprefix(f"{group}.") for full in known if rest and full.startswith(f"{group}.")]
    found = [f"{group}.{near}" for near in difflib.get_close_matches(rest, own, n=1, cutoff=0.6)] + found
    if found := list(dict.fromkeys(found))[:FEW]:
        return f", did you mean {' or '.join(filter(None, (', '.join(found[:-1]), found[-1])))}?"
    if rest and group in choices:
        listed = [name for name in own if "." not in name and not name.startswith("_")]
        return f"; {group} has {', '.join(listed) or f'no keys with {group}={choices.get(group)}'}"
    elsewhere = {
        of: [option for option in families(of) if key in settings(of, option) and not _is_of_root(of, option)]
        for of in choices
    }
    lines = [f"; {of}.{key} is a key of {of}={', '.join(names)}" for of, names in elsewhere.items() if names]
    if lines and "." not in key:
        return "".join(lines)
    if others := [other for other in COMMANDS if key in keys_of(other, {})]:
        files = " and ".join(f"{other}.py" for other in others[:FEW])
        return f" of {command.partition('_')[0]}.py; it is one of {files}"
    near = None if "." in key else closest(key, groups(), cutoff=0.75)  # a group before a key that lies deeper
    full = {full.replace(".", "_"): full for full in keys(command) if not full.startswith("hydra")}
    full = {full.rpartition(".")[2]: full for full in reversed([*groups(), *known])} | full
    near = near or full.get(key) or full.get(closest(key, list(full), cutoff=0.6) or "")
    return f", did you mean {near}?" if near else ""


def _is_of_root(group: str, option: str) -> bool:
    """Return whether the keys in the file of an option are those of the root, as in experiments."""
    return (CONF / group / f"{option}.yaml").read_text().startswith("# @package _global_")


def chosen(command: str, overrides: Sequence[str]) -> dict[str, str]:
    """Return the option that is chosen in each configuration group by the overrides of a command line.

    A group that they do not choose has the option of the run that they give (``run=DIR``), else that of the chosen
    model or experiment, else the command's default.
    """
    words = [override.lstrip("+").partition("=") for override in overrides]
    typed = {key: value for key, _, value in words if key in (*groups(), *SELECTORS)}
    found = defaults() | chosen_by("", command)
    for kind in ("experiment", "model"):
        found |= chosen_by(kind, str(typed.get(kind, found.get(kind))))
    for selector in SELECTORS:
        try:
            found |= {str(group): option for group, option in saved_of(typed.pop(selector)).choices.items()}
        except (KeyError, UserError):
            continue
    found |= typed
    return {group: str(option) for group, option in found.items() if group in groups()}


def keys_of(command: str, choices: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys of a command's configuration, with dots, each with its value as the files have it.

    Args:
        command: such as ``train``.
        choices: the option of each group.
    """
    roots = [entry for name in ("base", command) for entry in text_of(CONF / f"{name}.yaml").entries]
    found = {entry.key: entry.value for entry in roots if not f"{entry.key}.".startswith((f"{DEFAULTS}.", "hydra."))}
    for group, option in choices.items():
        found |= {f"{group}.{name}": key.default for name, key in texts.keys(group, option).items()}
    return found


def _is_taken(group: str, option: str | None, name: str) -> bool:
    """Return whether the class of an option, one of Lightning or torch, takes a keyword that no file lists."""
    foreign = [target for target in targets(group, str(option)) if not target.startswith("diffsweep.")]
    if not foreign or "_target_" not in settings(group, str(option)):
        return False
    from diffsweep.configuration.check import locate  # imports the class: seconds, of a mistake alone
    from diffsweep.configuration.signatures import keywords_of

    return name in keywords_of(locate(foreign[0]))[0]
