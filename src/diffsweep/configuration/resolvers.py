"""Define and register the functions that values of a configuration may call.

``run_source`` imports this module, so that a process which a launcher starts has them: it unpickles Hydra's sources.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

SWEEP = "DIFFSWEEP_SWEEP"  # variable with the name of the sweep, for the processes that a launcher starts
# Keys of where jobs run, which changes no result, and of how many a search runs, which can be more the next time.
LAUNCHER = ("hydra/launcher", "hydra.launcher", "hydra.sweeper.n_trials")
SWEPT = "DIFFSWEEP_SWEPT"  # variable with the keys that the sweep varies


def unique() -> str:
    """Return four random hexadecimal digits for a directory's name, in which runs of the same second then differ."""
    return secrets.token_hex(2)


def either(first: Any, second: Any) -> Any:
    """Return the first value, or the second if the first is null."""
    return second if first is None else first


def when(condition: bool, yes: Any, no: Any) -> Any:
    """Return one value if a condition holds, else the other."""
    return yes if condition else no


def divide(size: int, factor: int) -> int:
    """Return ``size / factor``, rounded up; a factor below 1 counts as 1.

    A part that requires a whole quotient raises an error for other sizes when it is built.
    """
    return -(-size // max(1, factor))


def at_most(most: int, size: int | None) -> int:
    """Return the smaller of two sizes, or the first if the second is null."""
    return most if size is None else min(most, size)


def slug(text: str) -> str:
    """Return a text for use in a directory's name: other characters than letters, digits, ``.`` and ``_`` become ``-``.

    Several of them in a row become one, those at the ends are left out, and the text ends after 100 characters.
    """
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-")[:100]


def swept(overrides: Sequence[str]) -> str:
    """Return the name of a job of a sweep, made of its overrides that vary in the sweep: ``schedule-linear_seed-0``.

    The keys that vary are read from the environment variable :data:`SWEPT`. If none does, the name is ``all``.
    """
    keys = os.environ.get(SWEPT, "").split(",")
    return "_".join(slug(override) for override in overrides if override.partition("=")[0] in keys) or "all"


def sweep_name(command: str, overrides: Sequence[str]) -> str:
    """Return the name of a sweep, the command and a hash of its overrides, under which a stopped sweep is continued.

    The order of the overrides, and those of Hydra's launcher, do not change the name.
    """
    own = sorted(override for override in overrides if not override.startswith(LAUNCHER))
    return f"{command}_{hashlib.sha256(repr(own).encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("unique", unique, use_cache=True, replace=True)
for resolver in (either, when, divide, at_most):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
OmegaConf.register_new_resolver("swept", swept, replace=True)
OmegaConf.register_new_resolver("sweep_name", lambda: os.environ.get(SWEEP, "unnamed"), replace=True)
