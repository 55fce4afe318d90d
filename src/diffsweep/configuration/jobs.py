"""List the jobs of a sweep: every combination of the values that its overrides list."""

import itertools
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override

from diffsweep.configuration.conf import options
from diffsweep.configuration.explain import explained
from diffsweep.errors import UserError

SWITCHES = ("-m", "--multirun")
OTHERS = ("hydra/launcher", "hydra/sweeper")  # with one of these Hydra runs the jobs
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
    if any(override.key_or_group == "hydra/sweeper" for override in every):
        return [[override.input_line or "" for override in every if not override.is_sweep_override()]]
    own = [override for override in every if not override.key_or_group.replace("/", ".").startswith(ELSEWHERE)]
    return [list(job) for job in itertools.product(*(_choices(override) for override in own))]


def _choices(override: Override) -> list[str]:
    """Return an override once for each of its values."""
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


def run_by_hydra(overrides: Sequence[str]) -> bool:
    """Return whether Hydra itself has to run the jobs, because an override chooses a launcher or a sweeper of it."""
    return any(override.key_or_group in OTHERS for override in parsed(overrides))
