"""Composes a command's configuration, from the command line or from Python."""

import difflib
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from diffsweep.configuration.conf import CONF, content, dotted, groups, keys, options, parents, settings
from diffsweep.configuration.resolvers import SWEEP
from diffsweep.configuration.run_source import PREFIX, SELECTORS, RunSearchPath, RunSource, load_config
from diffsweep.configuration.schema import SCHEMAS
from diffsweep.errors import UserError


@functools.cache
def register() -> None:
    """Tell Hydra of the schemas and of the runs that configuration can be read from."""
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    for plugin in (RunSource, RunSearchPath):
        Plugins.instance().register(plugin)


def compose(command: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration of a command ("train", "evaluate", "sample") under overrides as on the command line.

    The result needs nothing of Hydra: ``paths.run_dir`` and ``choices`` are filled in.

    Raises:
        UserError: an option, key or value is wrong; the message is one line and names the nearest right one.
    """
    register()
    GlobalHydra.instance().clear()
    with explained(command, overrides), initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        cfg = hydra_compose(command, overrides=list(overrides), return_hydra_config=True)
        return finish(command, cfg, cfg.hydra, run_dir=str(cfg.hydra.run.dir))


def jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a sweep, as Hydra's basic sweeper makes them; only the common ones of another's."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    if any(override.key_or_group == "hydra/sweeper" for override in parsed):
        return [[override.input_line or "" for override in parsed if not override.is_sweep_override()]]
    own = [override for override in parsed if not override.key_or_group.startswith("hydra")]
    return [job for batch in BasicSweeper.split_arguments(own, max_batch_size=None) for job in batch]


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """The keys that a sweep varies."""
    with explained("", overrides):
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [override.get_key_element() for override in parsed if override.is_sweep_override()]


def sweep_folder(command: str, overrides: Sequence[str]) -> Path:
    """The folder of a sweep, which holds one of each job."""
    with explained(command, overrides), initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        cfg = hydra_compose(command, overrides=jobs(overrides)[0], return_hydra_config=True)
        return Path(cfg.hydra.sweep.dir).absolute()


@contextmanager
def explained(command: str, overrides: Sequence[str]) -> Iterator[None]:
    """Hydra's errors become :class:`UserError`, within."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, command) from error
    except ValueError as error:
        if match := re.search(r"Config group override must be a string or a list. Got (\w+)", str(error)):
            raise UserError(f"the option of a group is a word, not of type {match[1]}: {_odd(overrides)}") from error
        raise


def finish(command: str, cfg: DictConfig, hydra: Any, run_dir: str) -> DictConfig:
    """Fill in what only Hydra knows, take Hydra's own part away, and hold the rest against the command's schema."""
    choices = {group: option for group, option in hydra.runtime.choices.items() if "/" not in group}
    inherited = {group: option for group, option in choices.items() if str(option).startswith(PREFIX)}
    selected = next((choices[name] for name in SELECTORS if choices.get(name)), None)
    if selected is not None:  # the names that the run had for what it passes on
        saved = load_config(selected).choices
        choices.update({group: saved.get(group) for group in inherited})
    with open_dict(cfg):
        cfg.pop("hydra", None)
    typed: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # they may refer to other keys
    _drop_what_does_not_fit(cfg, choices, typed)
    _take_what_runs_say(cfg, choices, typed)
    _refuse_unknown(cfg, SCHEMAS[command], command)
    directory = str(Path(run_dir).absolute())
    if selected is None:
        cfg.paths.run_dir = directory
    elif "output" in cfg:
        cfg.output = directory
    cfg.choices = {group: option for group, option in choices.items() if group not in SELECTORS}
    cfg.sweep = os.environ.get(SWEEP)
    return cfg


def _drop_what_does_not_fit(cfg: DictConfig, choices: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """The settings that a family or an experiment has for an option which the user has replaced (``model=improved_ddpm schedule=vp``):
    those that the other option does not have are taken back. What the user typed stays, and is refused if it is wrong."""
    typed = {override.lstrip("+~").partition("=")[0] for override in overrides}
    for kind in ("model", "experiment"):
        preset = content(kind, str(choices.get(kind)))
        if "defaults" not in preset:  # a run's own, or one that sets nothing elsewhere
            continue
        for name, chosen in preset.items():
            group = str(name)
            option = str(choices.get(group))
            if group != "model" and isinstance(chosen, dict) and (CONF / group / f"{option}.yaml").is_file():
                with open_dict(cfg[group]):
                    for key in set(dotted(chosen)) - settings(group, option):
                        above, _, last = key.rpartition(".")
                        node = OmegaConf.select(cfg[group], above) if above else cfg[group]
                        if f"{group}.{key}" not in typed and OmegaConf.is_dict(node) and last in node:
                            del node[last]


def _take_what_runs_say(cfg: DictConfig, choices: dict[str, Any], overrides: Sequence[str]) -> None:
    """A group that a finished run is given for, as by ``autoencoder.run=DIR``, has that run's settings, but for what the user typed."""
    typed = [override.lstrip("+~").partition("=")[0] for override in overrides]
    for group in [group for group in choices if group in cfg and OmegaConf.is_dict(cfg[group])]:
        if not cfg[group].get("run"):
            continue
        try:
            saved = load_config(cfg[group].run)
        except UserError:  # the check of stages says so, and how it is mended
            continue
        content = OmegaConf.to_container(saved[group], resolve=False)
        if not isinstance(content, dict) or content.get("_target_") != cfg[group].get("_target_"):
            continue
        choices[group] = saved.choices.get(group)
        with open_dict(cfg[group]):
            for name, value in content.items():
                key = str(name)
                if value is not None and not any(f"{own}.".startswith(f"{group}.{key}.") for own in typed):
                    cfg[group][key] = value


def _refuse_unknown(cfg: DictConfig, schema: type, command: str, prefix: str = "") -> None:
    """`+key=value` passes Hydra: the keys of the root, and of its typed parts, are those of the schema and no others."""
    known = {field.name: field.type for field in fields(schema)}
    for key in map(str, cfg):
        if key not in known:
            raise UserError(f"{prefix}{key}: no such key{nearest(f'{prefix}{key}', keys(command))}")
        if is_dataclass(known[key]):
            _refuse_unknown(cfg[key], known[key], command, prefix=f"{key}.")  # type: ignore[arg-type]


def from_hydra(command: str, cfg: DictConfig) -> DictConfig:
    """The configuration that Hydra hands to a task, finished."""
    hydra = HydraConfig.get()
    return finish(command, cfg, hydra, run_dir=hydra.runtime.output_dir)


def nearest(word: str, words: Sequence[str]) -> str:
    """ ", did you mean X?" where some word is near, else nothing."""
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f", did you mean {found[0]}?" if found else ""


def explain(error: Exception, command: str) -> UserError:
    """Hydra's error in one line, with the nearest right word."""
    cause = error.__cause__
    text = f"{error}\n{cause}" if cause is not None else str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).partition("/")
        if not option:
            return UserError(f"there is no group or command {group}{nearest(group, groups())}")
        near = nearest(option, options(group))
        return UserError(f"{group}={option}: no such option{near or ';'} {group} has {', '.join(options(group))}")
    if isinstance(error, OverrideParseException):
        return UserError(f"cannot read {error.override!r}: {str(error).splitlines()[0]}")
    if match := re.search(r"Ambiguous value for argument '(.+?)'", text):
        return UserError(f"{match[1]} has several values; add -m to run each of them")
    if match := re.search(r"You must specify '(\w+)'", text):
        return UserError(f"{match[1]}= is missing: give the directory of a run, as training printed it")
    if match := re.search(r"Could not (?:override|append|delete).*? '([^']+)'", text):
        key = match[1]
        if converted := re.search(r"Value '(.*?)'.* (?:could not be converted to|of type) (\w+)", text):
            return UserError(f"{key}={converted[1]}: not of type {_spoken(converted[2])}")
        return _no_such_key(key, command)
    if match := re.search(r"full_key: (\S+)", text):
        key = match[1]
        if converted := re.search(r"Value '(.*?)'.* could not be converted to (\w+)", text):
            return UserError(f"{key}={converted[1]}: not of type {_spoken(converted[2])}")
        if "not in" in text:
            return _no_such_key(key, command)
    if isinstance(error, ConfigCompositionException):
        return UserError(" ".join(text.split()))
    return UserError(" ".join(str(error).split()))


def _no_such_key(key: str, command: str) -> UserError:
    """Where other options of the key's group have it: which; else the nearest key there is."""
    group, _, name = key.partition(".")
    having = [o for o in options(group) if name in settings(group, o) and not parents(group, o)] if name else []
    if having:
        return UserError(f"{key}: the chosen {group} has no such key; {', '.join(having)} have it")
    return UserError(f"{key}: no such key{nearest(key, keys(command))}")


def _odd(overrides: Sequence[str]) -> str:
    """The overrides that give a group something other than a word."""
    every = OverridesParser.create().parse_overrides(list(overrides))
    odd = [o for o in every if o.key_or_group in groups() and not isinstance(o.value(), str)]
    return ", ".join(f"{o.input_line} ({o.key_or_group} has {', '.join(options(o.key_or_group))})" for o in odd)


def _spoken(kind: str) -> str:
    return {"Integer": "int", "Float": "float", "Boolean": "bool"}.get(kind, kind)
