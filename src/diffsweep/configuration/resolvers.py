"""The functions that configuration may call. Importing this module registers them.

``run_source`` imports it, so that a process which a launcher starts, and which unpickles Hydra's sources, has them too.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

SWEEP = "DIFFSWEEP_SWEEP"  # names the sweep, for the processes that a launcher starts
LAUNCHER = ("hydra/launcher", "hydra.launcher")  # where jobs run, which changes none of them
SWEPT = "DIFFSWEEP_SWEPT"  # the keys that it varies


def unique() -> str:
    """Four characters: two runs that start in the same second do not share a directory."""
    return secrets.token_hex(2)


def either(first: Any, second: Any) -> Any:
    """The first, or the second where the first is null."""
    return second if first is None else first


def when(condition: bool, yes: Any, no: Any) -> Any:
    """The one value where a condition holds, else the other."""
    return yes if condition else no


def divide(size: int, factor: int) -> int:
    """``size / factor``, rounded up: what factor does not divide is refused where it is built."""
    return -(-size // max(1, factor))


def slug(text: str) -> str:
    """``text`` with only what is safe in a directory that is passed on a command line: no ``=`` and no ``,``."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-")[:100]


def swept(overrides: Sequence[str]) -> str:
    """What a job of a sweep varies, as a name: ``schedule-linear_seed-0``."""
    keys = os.environ.get(SWEPT, "").split(",")
    return "_".join(slug(override) for override in overrides if override.partition("=")[0] in keys) or "all"


def sweep_name(command: str, overrides: Sequence[str]) -> str:
    """The same name for the same sweep, so that a sweep that was stopped goes on where it stopped."""
    own = sorted(override for override in overrides if not override.startswith(LAUNCHER))
    return f"{command}_{hashlib.sha256(repr(own).encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("unique", unique, use_cache=True, replace=True)
for resolver in (either, when, divide):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
OmegaConf.register_new_resolver("swept", swept, replace=True)
OmegaConf.register_new_resolver("sweep_name", lambda: os.environ.get(SWEEP, "unnamed"), replace=True)
