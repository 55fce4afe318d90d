"""Discovery of the functions of a package that a decorator collects: rules, proofs and parts of the benchmark.

Every module of the package is imported, so a new file is found without being listed anywhere.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any


def import_all(package: ModuleType) -> None:
    """Import every module directly in a package, in the order of their names, so that the decorators in them run."""
    for module in sorted(pkgutil.iter_modules(package.__path__, f"{package.__name__}."), key=lambda found: found.name):
        importlib.import_module(module.name)


def is_of(function: Callable[..., Any], packages: Iterable[str]) -> bool:
    """Return whether a function is defined in diffsweep or in one of the given packages.

    Rules, checks and benchmarks are collected in the whole process, so those that another command has imported from
    other packages are left out by this test.

    Args:
        function: a collected function.
        packages: names of top-level packages that the user trusts.
    """
    return function.__module__.partition(".")[0] in ("diffsweep", *packages)
