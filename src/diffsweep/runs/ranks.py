"""A run of several processes (ranks): how they meet, and how the others end in one line where one of them has ended."""

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from lightning import Trainer

from diffsweep.errors import Failed, line_of
from diffsweep.layers.distributed import distributed
from diffsweep.runs.signals import CODES

LOST = re.compile(r"connection (was )?(closed|reset)|broken pipe|remote process exited|socket timeout", re.IGNORECASE)
TURN = 1.0  # seconds that Python's own handler of a signal has before the process is ended without it


@contextmanager
def errors_of_ranks() -> Iterator[None]:
    """Turn the errors of torch.distributed that another process has ended into a one-line error, within a context.

    Raises:
        Failed: another process of the run has ended; its own message is the one that matters.
    """
    try:
        yield
    except RuntimeError as error:
        if distributed() and LOST.search(line_of(error)):
            rank = torch.distributed.get_rank()
            raise Failed(
                f"another process of this run has ended, so process {rank} ends too; the message of the other one "
                "states why, and resume= goes on from the last checkpoint"
            ) from error
        raise


@contextmanager
def meeting(trainer: Trainer, stopped: Callable[[int], None]) -> Iterator[None]:
    """Let signals end this process while it waits for the others of its run, within the context of their training.

    torch waits for them in C++, where Python's handlers of signals do not run. So a thread reads the signals as well;
    where the handler has not left this context a second later, and the processes have not met, the thread ends the
    process with the code of the signal, and those that it has started. Of several machines, the first process of each
    prints where they meet.

    Args:
        trainer: the trainer, before it fits.
        stopped: is called with the exit code before the thread ends the process.
    """
    if trainer.world_size == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    _print_place(trainer)
    received, sent = socket.socketpair()
    with received, sent:
        sent.setblocking(False)
        before = signal.set_wakeup_fd(sent.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=_end_on_signals, args=(received, trainer, stopped), daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            sent.shutdown(socket.SHUT_WR)
            thread.join()


def _print_place(trainer: Trainer) -> None:
    """Print how many processes of how many machines meet, and at which address."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.num_nodes == 1 or trainer.local_rank != 0 or environment is None:
        return
    place = f"{environment.main_address}:{environment.main_port}"
    print(
        f"waits at {place} (MASTER_ADDR:MASTER_PORT) for {trainer.world_size} processes of {trainer.num_nodes} "
        f"machines; this is machine {trainer.node_rank} (NODE_RANK)",
        flush=True,
    )
    if not environment.creates_processes_externally and "MASTER_ADDR" not in os.environ:
        print(
            "warning: MASTER_ADDR is not set, so that other machines do not find this one: set it, and MASTER_PORT, "
            "to the same values on all machines, and NODE_RANK to 0, 1, ...",
            file=sys.stderr,
            flush=True,
        )


def _end_on_signals(received: socket.socket, trainer: Trainer, stopped: Callable[[int], None]) -> None:
    """End the process where a signal is received before the processes have met, and its handler does not run."""
    received.settimeout(TURN)
    number: int | None = None
    while not distributed():
        try:
            numbers = received.recv(1)
        except TimeoutError:
            if number is not None:
                break
            continue
        if not numbers:  # the context has been left
            return
        number = numbers[0] if numbers[0] in CODES else number
    else:
        return
    code = CODES[signal.Signals(number)]
    if (launcher := trainer.strategy.launcher) is not None:  # torchrun and srun end processes that they have started
        launcher.kill(signal.SIGKILL)
    stopped(code)
    sys.stdout.flush()
    os._exit(code)
