"""Ctrl-C, SIGTERM and SIGUSR1, as an exception with the exit code of the process.

A scheduler takes the machine away (preempts a run) by SIGTERM, or by the signal that a job of Slurm chooses, as in
``sbatch --signal=USR1@60``.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from diffsweep.comparison.records import INTERRUPTED, PREEMPTED
from diffsweep.errors import Stopped

PREEMPTION = 143
# the exit codes of a process that a signal has ended
CODES = {signal.SIGINT: 130, signal.SIGTERM: PREEMPTION, signal.SIGUSR1: PREEMPTION}

Handler = Callable[[int, FrameType | None], Any]


def stop(number: int, frame: FrameType | None) -> None:
    """Raise :class:`Stopped`: the handler of a signal that ends the work at once."""
    raise Stopped(CODES[signal.Signals(number)])


def state_after(exit_code: object) -> str:
    """Return the state of a run that a signal has stopped: ``preempted`` by a scheduler, or ``interrupted`` by Ctrl-C.

    Args:
        exit_code: that of :class:`Stopped`.
    """
    return PREEMPTED if exit_code == PREEMPTION else INTERRUPTED


@contextmanager
def handling(handlers: Mapping[signal.Signals, Handler] | None = None) -> Iterator[None]:
    """Handle signals within the block, and as before after it. In other threads than the main one it does nothing.

    Args:
        handlers: by their signals; None for those of ``CODES``, which :func:`stop` the work.
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
