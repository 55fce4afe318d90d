"""List the jobs of a sweep: every combination of the values that its overrides list."""

import itertools
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override

from diffsweep.configuration.conf import content, options
from diffsweep.configuration.explain import explained
from diffsweep.errors import UserError

LAUNCHER, SWEEPER = "hydra/launcher", "hydra/sweeper"
PLAN = "plan"  # the key by which costs are predicted and nothing is started
OPTUNA = "optuna"  # the sweeper that diffsweep has itself
EXPERIMENT = "experiment"  # the group whose options may be sweeps
ELSEWHERE = ("hydra.launcher", "hydra.sweeper")  # keys of the launcher and the sweeper, which no job has


def parsed(overrides: Sequence[str]) -> list[Override]:
    """Return the overrides of a command line (``seed=1``, ``schedule=linear,cosine``), parsed by Hydra.

    Raises:
        UserError: a word is no override.
    """
    with explained("", overrides):
        return OverridesParser.create().parse_overrides(list(overrides))


def jobs(overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each job of a sweep: a job for each combination of the values that overrides list.

    The last key on the line varies fastest. ``GROUP=glob(*)`` lists the options that match. Overrides of Hydra's
    launcher and sweeper are left out. If a sweeper of Hydra draws the values (``hydra/sweeper=optuna``), the result is
    one job with the overrides that do not vary.

    Args:
        overrides: of the command line, such as ``["schedule=linear,cosine", "seed=0"]``.

    Raises:
        UserError: an override cannot be read, matches no option, or gives a range from which only a sweeper of Hydra
            can draw.
    """
    every = parsed(overrides)
    if any(override.key_or_group == SWEEPER for override in every):
        return [[override.input_line or "" for override in every if not override.is_sweep_override()]]
    own = [override for override in every if not override.key_or_group.replace("/", ".").startswith(ELSEWHERE)]
    return [list(job) for job in itertools.product(*(choices(override) for override in own))]


def choices(override: Override) -> list[str]:
    """Return an override once for each of the values that it lists.

    Raises:
        UserError: no option of the group matches, or the override gives an interval.
    """
    if not override.is_sweep_override():
        return [override.input_line or ""]
    key, value = override.get_key_element(), override.value()
    if isinstance(value, Glob):
        if not (found := value.filter(options(override.key_or_group))):
            raise UserError(
                f"{override.input_line}: no option matches; {key} has {', '.join(options(key)) or 'no options'}"
            )
        return [f"{key}={option}" for option in found]
    if not override.is_discrete_sweep():
        raise UserError(
            f"{override.input_line}: a range has no list of values; give them, {key}=A,B,C, or use hydra/sweeper=optuna"
        )
    return [f"{key}={text}" for text in override.sweep_string_iterator()]


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """Return the keys that a sweep varies: those of overrides that list several values (``seed=0,1``)."""
    return [override.get_key_element() for override in parsed(overrides) if override.is_sweep_override()]


def sweep_of(option: str) -> dict[str, str]:
    """Return what an option of the group ``experiment`` sweeps: the values of each key, as ``-m`` takes them.

    A file of ``conf/experiment`` lists them under ``hydra.sweeper.params``: ``{"schedule": "linear,cosine", "seed":
    "0,1,2"}``. The result is empty if the experiment is a single run, or if it does not exist.
    """
    node = content(EXPERIMENT, option)
    for key in ("hydra", "sweeper", "params"):
        node = node.get(key) or {}
    return {str(key): str(values) for key, values in node.items()}


def with_sweep_of_experiment(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a sweep, and after them the keys that its experiment sweeps (see :func:`sweep_of`).

    A key that is typed, with one value or with several, is not added. Nothing is added for the sweeper of a Hydra
    plugin (``hydra/sweeper=ax``), which reads the keys of the experiment itself.

    Args:
        overrides: of the command line, such as ``["experiment=ablate_schedules", "seed=0"]``.

    Raises:
        UserError: an override cannot be read, or several experiments are listed and one of them is a sweep.
    """
    every = parsed(overrides)
    names = _experiments(every)
    if sweeper_of(overrides) not in (None, OPTUNA):
        return list(overrides)
    if len(names) > 1 and (sweeps := [name for name in names if sweep_of(name)]):
        raise UserError(f"experiment={','.join(names)}: {sweeps[0]} is a sweep itself; start it in a line of its own")
    typed = {override.key_or_group for override in every}
    added = [f"{key}={values}" for name in names for key, values in sweep_of(name).items() if key not in typed]
    return [*overrides, *added]


def check_is_no_sweep(overrides: Sequence[str]) -> None:
    """Raise a UserError if a line without ``-m`` chooses an experiment that is a sweep.

    A line that gives each key of the sweep one value is one of its jobs, and is accepted.

    Args:
        overrides: of the command line, such as ``["experiment=ablate_schedules"]``.

    Raises:
        UserError: an override cannot be read, or the line leaves out a key that the experiment sweeps.
    """
    every = parsed(overrides)
    typed = {override.key_or_group for override in every}
    for name in _experiments(every):
        if missing := [key for key in sweep_of(name) if key not in typed]:
            raise UserError(
                f"experiment={name} is a sweep over {', '.join(missing)}; add -m to run it, or give each of them one "
                "value for a single job"
            )


def is_planned(overrides: Sequence[str]) -> bool:
    """Return whether a command line predicts what it would cost in place of starting it.

    Raises:
        UserError: ``plan`` has several values.
    """
    typed = [override for override in parsed(overrides) if override.key_or_group == PLAN]
    if any(override.is_sweep_override() for override in typed):
        raise UserError("plan has one value for all jobs of a sweep: true, false or FILE.json")
    return bool(typed) and typed[-1].value() is not False


def _experiments(overrides: Sequence[Override]) -> list[str]:
    """Return the experiments that overrides choose: several for ``experiment=a,b``, and none for most lines."""
    last = next((override for override in reversed(overrides) if override.key_or_group == EXPERIMENT), None)
    return [] if last is None else [choice.partition("=")[2] for choice in choices(last)]


def launcher_of(overrides: Sequence[str]) -> str | None:
    """Return the launcher of Hydra's that starts the jobs of a sweep in processes of their own; None if none does."""
    chosen = [str(override.value()) for override in parsed(overrides) if override.key_or_group == LAUNCHER]
    return next((name for name in reversed(chosen) if name != "basic"), None)


def sweeper_of(overrides: Sequence[str]) -> str | None:
    """Return the sweeper that searches instead of running every combination: ``optuna``, or one of Hydra's plugins."""
    chosen = [str(override.value()) for override in parsed(overrides) if override.key_or_group == SWEEPER]
    return next((name for name in reversed(chosen) if name != "basic"), None)
