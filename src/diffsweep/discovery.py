"""Discovery of the functions of a package that a decorator collects: rules, proofs and parts of the benchmark.

Every module of the package is imported, so a new file is found without being listed anywhere.
"""

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
    """Return whether a collected function belongs to diffsweep or to one of the given packages.

    Functions that another command of the same process has imported do not count.
    """
    return function.__module__.partition(".")[0] in ("diffsweep", *packages)
