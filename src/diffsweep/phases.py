"""Names of the phases of a run, such as the network and the loss, by which a profiler splits its time.

Code that takes time marks itself by :func:`phase`. Without a profiler a mark does nothing.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

DATA, NOISE, NETWORK, LOSS = "data", "noise and times", "network", "loss"
BACKWARD, OPTIMIZER, AVERAGING = "backward", "optimizer", "EMA"
LOGGING, CHECKPOINTS, VALIDATION, SAMPLING = "logging", "checkpoints", "validation", "sampling"
REST = "callbacks and the loop"
IN_A_STEP = (DATA, NOISE, NETWORK, LOSS, BACKWARD, OPTIMIZER, AVERAGING, LOGGING)
PHASES = (*IN_A_STEP, CHECKPOINTS, VALIDATION, SAMPLING, REST)  # all else last
APART = (VALIDATION, SAMPLING)  # the network within these is a phase of its own, such as sampling: network

MakePhase = Callable[[str], AbstractContextManager[Any]]
Counted = TypeVar("Counted", bound=Callable[..., Any])

_NOTHING: AbstractContextManager[Any] = nullcontext()
_profile: MakePhase | None = None
_thread = 0  # that of the profiler; others, such as that of the backward pass on a GPU, are not split


def phase(name: str) -> AbstractContextManager[Any]:
    """Return a context manager, in which time counts to a phase if a profiler is on; else one that does nothing.

    Args:
        name: of the phase, one of :data:`PHASES`.
    """
    return _NOTHING if _profile is None or threading.get_ident() != _thread else _profile(name)


def counted_as(name: str) -> Callable[[Counted], Counted]:
    """Return a decorator of functions whose time counts to a phase.

    Args:
        name: of the phase, one of :data:`PHASES`.
    """

    def decorate(function: Counted) -> Counted:
        @functools.wraps(function)
        def counted(*arguments: Any, **keywords: Any) -> Any:
            with phase(name):
                return function(*arguments, **keywords)

        return counted  # type: ignore[return-value]

    return decorate


@contextmanager
def profiled(profile: MakePhase | None) -> Iterator[None]:
    """Let phases of this thread be counted in the body of a ``with`` statement.

    Args:
        profile: a function of a phase that returns a context manager which counts it; None for none.
    """
    global _profile, _thread
    before = _profile, _thread
    _profile, _thread = profile, threading.get_ident()
    try:
        yield
    finally:
        _profile, _thread = before
