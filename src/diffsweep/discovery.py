"""Parts of a package that a decorator collects: rules, proofs, parts of the benchmark. Every module of the package is imported, so a file that
is there is found; none is listed by hand."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any


def import_all(package: ModuleType) -> None:
    """Import every module of a package, in the order of their names."""
    for module in sorted(pkgutil.iter_modules(package.__path__, f"{package.__name__}."), key=lambda found: found.name):
        importlib.import_module(module.name)


def is_of(function: Callable[..., Any], packages: Iterable[str]) -> bool:
    """Whether a collected function is diffsweep's, or of one of the packages: what another command of the process has imported is not."""
    return function.__module__.partition(".")[0] in ("diffsweep", *packages)
