"""Compose the configuration of a command, from the command line or from Python."""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf, open_dict

from diffsweep.configuration.conf import CONF, GOING_ON, SELECTORS, SHARED, content, dotted, is_global, settings
from diffsweep.configuration.explain import explained
from diffsweep.configuration.facts import fill_in_found
from diffsweep.configuration.following import options_that_fit
from diffsweep.configuration.moved import with_new_names
from diffsweep.configuration.quoting import quoted
from diffsweep.configuration.resolvers import SWEEP
from diffsweep.configuration.run_source import PREFIX, RunSearchPath, RunSource
from diffsweep.configuration.saved import load_config
from diffsweep.configuration.schema import FORMS, SCHEMAS, Bare
from diffsweep.configuration.sections import OptunaSearch
from diffsweep.configuration.suggestions import no_such_key, no_such_option
from diffsweep.errors import UserError


@functools.cache  # Hydra keeps what it is given: once is enough
def register(command: str) -> None:
    """Register the schema of a command and the source of finished runs with Hydra, which it needs to compose.

    The schema has the names, types and defaults of the root keys of the command's configuration. The source
    (:class:`~diffsweep.configuration.run_source.RunSource`) serves the saved configuration of a run for ``run=DIR``.

    Args:
        command: such as ``train``; a name of ``SCHEMAS``.
    """
    _register_plugins()
    ConfigStore.instance().store(name=f"{command}_schema", node=SCHEMAS[command])


@functools.cache
def _register_plugins() -> None:
    for plugin in (RunSource, RunSearchPath):
        Plugins.instance().register(plugin)
    # after Hydra has found its plugins, one of which has the same name and is not usable with Optuna's today
    ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=OptunaSearch)


class Composed(NamedTuple):
    """A job of a command: the configuration of one run of it, of which a sweep has several.

    Attributes:
        command: such as ``train``; a name of ``SCHEMAS``.
        cfg: its configuration without Hydra's settings; ``paths.run_dir`` and ``choices`` are filled in.
        hydra: Hydra's settings, which Lightning reads when it starts the other processes of a distributed run.
        sweep_dir: the folder of the sweep that the job belongs to; meaningless (``Path()``) for a job alone.
        words: its overrides.
    """

    command: str
    cfg: DictConfig
    hydra: DictConfig
    sweep_dir: Path
    words: list[str]

    @property
    def name(self) -> str:
        """The last part of the job's directory; in a sweep its number and what it varies, ``0_schedule-linear``."""
        return Path(self.hydra.hydra.run.dir).name


def compose(command: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Return the configuration of a command, such as "train", under overrides as on the command line.

    Only the names of options and keys are checked; :func:`~diffsweep.configuration.preflight.preflight` checks the
    rest.

    Args:
        command: ``train``, ``evaluate``, ``sample``, ``benchmark`` or ``verify``.
        overrides: such as ``["schedule=linear", "seed=1"]``.

    Raises:
        UserError: an option, key or value is wrong; the message is one line and names the nearest right one.
    """
    command = form_of(command, overrides)
    return compose_job(command, quoted(command, overrides)).cfg


def form_of(command: str, words: Sequence[str]) -> str:
    """Return the name of a command's configuration, which one of the typed words can change.

    Args:
        command: such as ``evaluate``.
        words: what is typed after it; with ``images=FOLDER``, ``evaluate`` becomes ``evaluate_images``.
    """
    key, form = FORMS.get(command, ("", command))
    return form if any(word.partition("=")[0] == key for word in words) else command


def compose_job(command: str, overrides: Sequence[str] = (), number: int | None = None) -> Composed:
    """Compose the configuration of a job, which runs alone, or as one of a sweep in the sweep's folder.

    Args:
        command: such as ``train``; a name of ``SCHEMAS``.
        overrides: such as ``["schedule=linear", "seed=1"]``.
        number: the number of the job in its sweep, from 0; None for a job alone.

    Raises:
        UserError: an option, key or value is wrong, as in :func:`compose`.
    """
    register(command)
    overrides = with_new_names(overrides)
    if number is not None and issubclass(SCHEMAS[command], Bare):
        raise UserError(f"{command.partition('_')[0]}.py runs once, and makes no sweep: leave out -m")
    GlobalHydra.instance().clear()
    numbered = [] if number is None else [f"hydra.job.num={number}"]
    with explained(command, overrides), initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        cfg = hydra_compose(command, overrides=[*overrides, *numbered], return_hydra_config=True)
        hydra, sweep_dir = cfg.hydra, Path()
        if number is not None:
            sweep_dir = Path(hydra.sweep.dir).absolute()
        _refuse_place(overrides, hydra.runtime.choices, number)
        run_dir = str(hydra.run.dir) if number is None else str(sweep_dir / hydra.sweep.subdir)
        hydra.run.dir = run_dir
        own = OmegaConf.masked_copy(cfg, "hydra")
        composed = Composed(command, finish(command, cfg, hydra, run_dir), own, sweep_dir, list(overrides))
    if following := options_that_fit(composed.cfg, command, overrides):
        return compose_job(command, [*overrides, *following], number)
    return composed


def finish(command: str, cfg: DictConfig, hydra: Any, run_dir: str) -> DictConfig:
    """Complete the configuration that Hydra has composed for a command, check its root keys and return it.

    ``choices`` (the option of each group), the directory and ``sweep`` are filled in. Hydra's settings are removed, and
    so are settings that a model or an experiment makes for an option which the user has replaced.

    Args:
        command: ``train``, ``evaluate``, ``sample``, ``benchmark`` or ``verify``.
        cfg: as composed; it is changed in place.
        hydra: Hydra's own settings.
        run_dir: the directory of the job: ``paths.run_dir``, or ``output`` for a command on a given run.

    Raises:
        UserError: a key of the root does not exist, or a chosen file holds only what options share.
    """
    choices = {group: option for group, option in hydra.runtime.choices.items() if "/" not in group}
    for group, option in choices.items():
        if str(option).startswith(SHARED):
            raise no_such_option(group, str(option))
    inherited = {group: option for group, option in choices.items() if str(option).startswith(PREFIX)}
    given = [name for name in SELECTORS if choices.get(name)]
    if len(given) > 1:
        both = " and ".join(f"{name}={choices[name]}" for name in given)
        raise UserError(f"{both} choose two runs; give one of them")
    if given == ["from"] and "base" not in cfg.adaptation:
        raise UserError(
            f"from={choices['from']} starts from a trained model, and adaptation={choices['adaptation']} starts from "
            "random weights; leave one of the two out"
        )
    selected, new = choices[given[0]] if given else None, not set(given) & set(GOING_ON)
    if selected is not None:  # the run's own choices, for the groups that come from it
        saved = load_config(selected).choices
        choices.update({group: saved.get(group) for group in inherited})
    with open_dict(cfg):
        cfg.pop("hydra", None)
    typed: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # they may refer to other keys
    _drop_what_does_not_fit(cfg, choices, typed)
    _drop_what_another_class_does_not_take(cfg, typed)
    _take_settings_of_runs(cfg, choices, typed)
    if "dataset" not in inherited:
        fill_in_found(cfg)
    _refuse_unknown(cfg, SCHEMAS[command], command, typed)
    directory = str(Path(run_dir).absolute())
    if new:
        cfg.paths.run_dir = directory
    elif "output" in cfg:
        cfg.output = directory
    if selected is not None:  # presets that the run was made from; what they set has come with the other groups
        choices.update(
            {kind: saved[kind] for kind in ("experiment", "debug") if not choices.get(kind) and kind in saved}
        )
    cfg.choices = {group: option for group, option in choices.items() if group not in SELECTORS}
    if "words" in cfg:
        cfg.words = typed
    if "model" in cfg:  # of a command that builds something, and may be a job of a sweep
        cfg.sweep = os.environ.get(SWEEP)
    return cfg


def _refuse_place(overrides: Sequence[str], choices: Mapping[str, Any], number: int | None) -> None:
    """Refuse a folder that is typed for a run where the command has no new run, or several."""
    place = next((override for override in overrides if override.startswith("paths.run_dir=")), None)
    if place is not None and number is not None:
        raise UserError(f"{place} is one folder, and a sweep has one for each job; hydra.sweep.dir=DIR holds them all")
    if place is not None and any(choices.get(name) for name in GOING_ON):
        raise UserError(f"{place} is the folder of a new run; this command goes on with one that has its folder")


def _drop_what_does_not_fit(cfg: DictConfig, choices: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Remove settings that a family, an experiment or a debug preset makes for an option which the user has replaced.

    With ``model=improved_ddpm schedule=vp`` the family sets ``schedule.num_steps``, which ``schedule=vp`` does not
    have. What the user typed stays, and is refused if it is wrong.
    """
    typed = {override.lstrip("+~").partition("=")[0] for override in overrides}
    for kind in ("model", "experiment", "debug"):
        preset = content(kind, str(choices.get(kind)))
        if not is_global(kind, str(choices.get(kind))):  # of a saved run, or one that sets no other group
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


def _drop_what_another_class_does_not_take(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Remove settings of an option that the class typed in its place (``task._target_=mine.Stamp``) does not take.

    What the user typed stays, and is refused if it is wrong.
    """
    typed = {override.lstrip("+~").partition("=")[0] for override in overrides}
    for path in [key.removesuffix("._target_") for key in typed if key.endswith("._target_")]:
        from diffsweep.configuration.check import RESERVED, locate  # imports torch
        from diffsweep.configuration.signatures import keywords_of

        node = OmegaConf.select(cfg, path)
        if not isinstance(node, DictConfig):
            continue
        try:
            taken, anything = keywords_of(locate(str(node.get("_target_")), cfg.trust))
        except UserError:  # the check reports it
            continue
        with open_dict(node):
            for name in [str(key) for key in node if str(key) not in (*taken, *RESERVED) and not anything]:
                if not any(f"{key}.".startswith(f"{path}.{name}.") for key in typed):
                    del node[name]


def _take_settings_of_runs(cfg: DictConfig, choices: dict[str, Any], overrides: Sequence[str]) -> None:
    """Copy the settings of a run into the group that it is given for (``autoencoder.run=DIR``), except typed ones.

    So the sizes of an autoencoder are typed once, when it is trained.
    """
    typed = [override.lstrip("+~").partition("=")[0] for override in overrides]
    for group in [group for group in choices if group in cfg and OmegaConf.is_dict(cfg[group])]:
        if not cfg[group].get("run"):
            continue
        try:
            saved = load_config(cfg[group].run)
        except UserError:  # the check of stages reports it, with what to type instead
            continue
        content = OmegaConf.to_container(saved[group], resolve=False)
        if not isinstance(content, dict) or content.get("_target_") != cfg[group].get("_target_"):
            continue
        if content.get("run") is not None:  # the run was given one itself, as a student that is a teacher was
            continue
        choices[group] = saved.choices.get(group)
        with open_dict(cfg[group]):
            for name, value in content.items():
                key = str(name)
                if value is not None and not any(f"{own}.".startswith(f"{group}.{key}.") for own in typed):
                    cfg[group][key] = value


def _refuse_unknown(cfg: DictConfig, schema: type, command: str, typed: Sequence[str], prefix: str = "") -> None:
    """Raise a UserError for a key of the root, or of its typed parts, that the schema does not have.

    Hydra accepts any key that is added (``+key=value``).
    """
    known = {field.name: field.type for field in fields(schema)}
    for key in map(str, cfg):
        if key not in known:
            raise no_such_key(f"{prefix}{key}", command, typed)
        if is_dataclass(known[key]):
            _refuse_unknown(cfg[key], known[key], command, typed, prefix=f"{key}.")  # type: ignore[arg-type]


def from_hydra(command: str, cfg: DictConfig) -> DictConfig:
    """Return the configuration that Hydra passes to the function of a job, completed as :func:`compose` completes it.

    Hydra must be running the job: its settings are read from :class:`~hydra.core.hydra_config.HydraConfig`.

    Raises:
        UserError: see :func:`finish`.
    """
    hydra = HydraConfig.get()
    return finish(command, cfg, hydra, run_dir=hydra.runtime.output_dir)
