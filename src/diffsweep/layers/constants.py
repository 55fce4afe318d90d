"""Tables that depend on sizes alone, which networks read in each call and make once."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


class _Made:
    """Tables that compiled networks read, each an attribute, so that torch.compile finds those that are new."""


MADE, NAMES = _Made(), dict[Any, str]()


def made_once(maxsize: int) -> Callable[[Function], Function]:
    """Return a decorator of functions of sizes, a device and a dtype that return tensors, for a cache of the results.

    Compiled networks read a result as they read weights. Traced, its making would be part of each call (torch.compile
    leaves caches out), with copies to a GPU, which a CUDA graph cannot have.

    Args:
        maxsize: the number of results that are kept, each for other arguments; compiled networks keep all of theirs.
    """

    def decorate(function: Function) -> Function:
        cached = functools.lru_cache(maxsize)(function)

        def place(*args: Any) -> str:
            if (key := (cached, args)) not in NAMES:
                NAMES[key] = f"table_{len(NAMES)}"
                setattr(MADE, NAMES[key], cached(*args))
            return NAMES[key]

        place._dynamo_marked_constant = True  # type: ignore[attr-defined] # is called while torch.compile traces

        @functools.wraps(function)
        def call(*args: Any) -> Any:
            return getattr(MADE, place(*args)) if torch.compiler.is_dynamo_compiling() else cached(*args)

        return call  # type: ignore[return-value]

    return decorate
