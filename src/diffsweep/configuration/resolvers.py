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
LAUNCHER = ("hydra/launcher", "hydra.launcher")  # keys of where jobs run, which changes no result
SWEPT = "DIFFSWEEP_SWEPT"  # variable with the keys that the sweep varies


def unique() -> str:
    """Return four random characters, so that runs which start in the same second have directories of their own."""
    return secrets.token_hex(2)


def either(first: Any, second: Any) -> Any:
    """Return the first value, or the second if the first is null."""
    return second if first is None else first


def when(condition: bool, yes: Any, no: Any) -> Any:
    """Return one value if a condition holds, else the other."""
    return yes if condition else no


def divide(size: int, factor: int) -> int:
    """Return ``size / factor``, rounded up; a part that requires whole quotients refuses others when it is built."""
    return -(-size // max(1, factor))


def slug(text: str) -> str:
    """Return a text with only characters that are safe in a directory name on a command line: no ``=``, no ``,``."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-")[:100]


def swept(overrides: Sequence[str]) -> str:
    """Return the name of a job of a sweep, made of what it varies: ``schedule-linear_seed-0``."""
    keys = os.environ.get(SWEPT, "").split(",")
    return "_".join(slug(override) for override in overrides if override.partition("=")[0] in keys) or "all"


def sweep_name(command: str, overrides: Sequence[str]) -> str:
    """Return the name of a sweep, the same for the same overrides, so that a stopped sweep can be continued."""
    own = sorted(override for override in overrides if not override.startswith(LAUNCHER))
    return f"{command}_{hashlib.sha256(repr(own).encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("unique", unique, use_cache=True, replace=True)
for resolver in (either, when, divide):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
OmegaConf.register_new_resolver("swept", swept, replace=True)
OmegaConf.register_new_resolver("sweep_name", lambda: os.environ.get(SWEEP, "unnamed"), replace=True)
