"""A sweep whose jobs run in a worker, a process of its own, so that a job that ends its process does not end the sweep.

The process of the command line is the supervisor: it starts the same command line again as the worker, passes signals
on to it, and waits; it imports no torch. The worker runs the jobs in turn. If it dies with one, as by a segmentation
fault or because memory ran out, that job is recorded as failed and a new worker runs those that are left. A worker
whose supervisor has died saves its step and stops, as after SIGTERM.
"""

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from diffsweep.processes import started
from diffsweep.runs.manifest import Manifest
from diffsweep.runs.signals import handling

SOCKET = "DIFFSWEEP_SUPERVISOR"  # the environment of a worker: the number of its socket to the supervisor
FIRST = "DIFFSWEEP_FIRST_WORKER"  # and whether no worker of this sweep has died, "1" or "0"
ENDED = b"\0"  # a worker sends the folder of its sweep, and this when it ends by itself
PATIENCE = 10.0  # seconds for the processes that a dead worker had started to end
SUSPENDED = (signal.SIGTSTP,)  # Ctrl-Z
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Worker:
    """The side of the worker: where it reports to its supervisor.

    Args:
        line: to the supervisor; None in a process that has none, and reports nothing.
        first: whether no worker of this sweep has died before this one.
    """

    def __init__(self, line: socket.socket | None = None, first: bool = True) -> None:
        self.line, self.first = line, first

    def begin(self) -> None:
        """Report the end of this process when it ends by itself, and stop it if its supervisor ends before."""
        if self.line is not None:
            atexit.register(self._send, ENDED)
            threading.Thread(target=self._stop_alone, daemon=True).start()

    def report(self, folder: Path) -> None:
        """Report the folder of the sweep, which has its manifest now."""
        self._send(os.fsencode(folder))

    def _send(self, content: bytes) -> None:
        if self.line is not None:
            with contextlib.suppress(OSError):
                self.line.sendall(content)

    def _stop_alone(self) -> None:
        assert self.line is not None
        with contextlib.suppress(OSError):
            self.line.recv(1)  # nothing is ever sent: it returns when the supervisor has ended
        os.kill(os.getpid(), signal.SIGTERM)


def _of_the_environment() -> Worker:
    """Return this process's side, and remove it from the environment, which the processes that it starts inherit."""
    number, first = os.environ.pop(SOCKET, None), os.environ.pop(FIRST, "1")
    return Worker() if number is None else Worker(socket.socket(fileno=int(number)), first == "1")


worker = _of_the_environment()


def is_needed(arguments: Sequence[str]) -> bool:
    """Return whether this process is to supervise a sweep, and not to run it itself.

    It is where these are the arguments of its own command line and a sweep is among them. A launcher supervises the
    processes that it starts, so does torchrun, and a debugger follows one process alone.

    Args:
        arguments: of the command, ``sys.argv[1:]``.
    """
    switches = {argument for argument in arguments if argument.startswith("-")}
    return (
        worker.line is None
        and bool(switches)
        and switches <= {"-m", "--multirun"}
        and sys.orig_argv[-len(arguments) :] == list(arguments)
        and not any(argument.startswith("hydra/launcher=") for argument in arguments)
        and (started() or 1) == 1
        and "LOCAL_RANK" not in os.environ
        and sys.gettrace() is None
    )


def supervise(command: Sequence[str]) -> int:
    """Run a command line as a worker, and again without the job with which it died, until none is left.

    Args:
        command: the program and its arguments.

    Returns:
        The exit code of the last worker; 128 + n if signal n ended it.
    """
    supervisor, first = Supervisor(), True
    handlers = {**dict.fromkeys(PASSED_ON, supervisor.pass_on), **dict.fromkeys(SUSPENDED, supervisor.suspend)}
    with handling(handlers):
        while True:
            code, sent = supervisor.run(command, first)
            if sent.endswith(ENDED) or supervisor.received:
                break
            supervisor.clear()
            reason = why(code)
            dead = Manifest(Path(os.fsdecode(sent))).fail_dead(reason) if sent else []
            if not dead:
                print(
                    f"error: the process of the sweep ended while it ran no job: {reason}; the same line goes on",
                    file=sys.stderr,
                )
                break
            for name in dead:
                print(f"{name} failed: {reason}", flush=True)
            first = False
    return code if code >= 0 else 128 - code


def why(code: int) -> str:
    """Return why a process died, from its return code; it did not end by itself."""
    if code >= 0:
        return f"its process was ended with exit code {code}, as by os._exit({code})"
    number = signal.Signals(-code)
    memory = ", as the system does when memory runs out" if number == signal.SIGKILL else ""
    return f"its process was ended by {number.name}{memory}"


class Supervisor:
    """The side of the supervisor: the worker that runs now, and the signals received so far."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._running: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str], first: bool) -> tuple[int, bytes]:
        """Run a worker to its end; return its return code and what it has sent.

        It has a session of its own, so that signals reach it through this process, each of them once.
        """
        ours, its = socket.socketpair()
        with ours:
            environment = {**os.environ, SOCKET: str(its.fileno()), FIRST: str(int(first))}
            with its:
                self._running = subprocess.Popen(
                    command, env=environment, pass_fds=[its.fileno()], start_new_session=True
                )
            for number in self.received:  # received before a worker had started
                self._send(number)
            code = self._running.wait()
            with contextlib.suppress(BlockingIOError, ConnectionError):
                return code, ours.recv(1 << 16, socket.MSG_DONTWAIT)
            return code, b""

    def pass_on(self, number: int, frame: FrameType | None) -> None:
        """Pass a signal on to the worker: the handler of those that stop a sweep."""
        self.received.append(number)
        if self._running is not None:
            self._send(number)

    def _send(self, number: int) -> None:
        assert self._running is not None
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGINT:  # as a terminal does, to the processes too that the worker has started
                os.killpg(self._running.pid, number)
            else:
                self._running.send_signal(number)

    def suspend(self, number: int, frame: FrameType | None) -> None:
        """Suspend the worker and this process, until this one is continued: the handler of Ctrl-Z."""
        if self._running is not None and self._running.returncode is None:
            os.killpg(self._running.pid, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            os.killpg(self._running.pid, signal.SIGCONT)

    def clear(self) -> None:
        """Wait for the end of what a dead worker had started; it holds the lock of the job, and memory of the GPU."""
        assert self._running is not None
        until = time.monotonic() + PATIENCE
        with contextlib.suppress(ProcessLookupError):  # none is left
            while time.monotonic() < until:
                os.killpg(self._running.pid, 0)
                time.sleep(0.05)
            os.killpg(self._running.pid, signal.SIGKILL)
            time.sleep(0.5)
