"""Tables that depend on sizes alone, which networks read in each call and make once."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def made_once(maxsize: int) -> Callable[[Function], Function]:
    """Return a decorator of functions of sizes, a device and a dtype that return tensors, for a cache of the results.

    Compiled networks take a result as a constant. Traced, its making would be part of each call (torch.compile leaves
    caches out), with copies to a GPU, which a CUDA graph cannot have.

    Args:
        maxsize: the number of results that are kept, each for other arguments.
    """

    def decorate(function: Function) -> Function:
        cached = functools.lru_cache(maxsize)(function)

        @functools.wraps(function)
        def call(*args: Any) -> Any:
            return cached(*args)

        call._dynamo_marked_constant = True  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate
