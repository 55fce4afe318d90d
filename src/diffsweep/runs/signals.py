"""Ctrl-C and SIGTERM, as an exception with the exit code of the process."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from diffsweep.errors import Stopped

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}  # exit codes of a process that a signal has ended

Handler = Callable[[int, FrameType | None], Any]


def stop(number: int, frame: FrameType | None) -> None:
    """Raise :class:`Stopped`: the handler of a signal that ends the work at once."""
    raise Stopped(CODES[signal.Signals(number)])


@contextmanager
def handling(handlers: Mapping[signal.Signals, Handler] | None = None) -> Iterator[None]:
    """Handle signals within the block, and as before after it. In other threads than the main one it does nothing.

    Args:
        handlers: by their signals; None for Ctrl-C and SIGTERM, which :func:`stop` the work.
    """
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # Python allows no handlers in other threads
        wanted = dict.fromkeys(CODES, stop) if handlers is None else handlers
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
