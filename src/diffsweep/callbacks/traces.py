"""A profiler of the operations of a few training steps and a few network calls of sampling, by torch's profiler."""

import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._C._autograd import DeviceType
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerAction, ProfilerActivity, profile, schedule

from diffsweep.callbacks.profilers import NEXT_BATCH, ORDER, PhaseFunctions, PhaseProfiler, SimpleTimes, table
from diffsweep.files import write_text
from diffsweep.phases import APART, NETWORK, REST, SAMPLING

WAIT, WARM_UP, ACTIVE = 10, 1, 3  # batches before a trace, with the profiler on but not recorded, and recorded
TRAINING = "training"
DRIVER = ("cu", "hip")  # the first letters of calls that launch kernels, such as cudaLaunchKernel
OPERATORS = 20  # in the table
NETWORK_OF_SAMPLES = f"{SAMPLING}: {NETWORK}"


class Span(NamedTuple):
    """An interval of time of a phase in a trace.

    Attributes:
        name: of the phase.
        start, end: on the clock of the CPU, in microseconds.
    """

    name: str
    start: float
    end: float


class PhaseTrace(PhaseProfiler):
    """``trainer.profiler=pytorch``: all operations of three training batches, and of three network calls of sampling.

    They are traces for chrome://tracing or https://ui.perfetto.dev, ``profile/training.json`` and
    ``profile/sampling.json``, in which phases, modules and operators are named. The table ``profile/pytorch.txt`` has
    the time of each phase, and the operators that take longest; on a GPU the time of its kernels too. A trace begins
    after ten batches, when all is compiled and allocated, or earlier in a short training.
    """

    def __init__(self, folder: Path, batches: int) -> None:
        super().__init__(folder, batches)
        self._schedules: dict[str, Callable[[int], Any]] = {
            TRAINING: _steps(min(WAIT, max(0, batches - WARM_UP - ACTIVE))),
            SAMPLING: _steps(0),
        }
        self._trace: profile | None = None
        self._kind = TRAINING
        self._next_batch = False  # whether the action that begins is the first of a batch
        self._record: record_function | None = None
        self._module: nn.Module | None = None
        self._named: list[Any] = []  # hooks of modules
        self._texts: dict[str, str] = {}
        self.cuda = torch.cuda.is_available()

    def watch(self, module: nn.Module) -> None:
        self._module = module

    def start(self, action_name: str) -> None:
        self._next_batch = NEXT_BATCH in action_name
        super().start(action_name)
        self._next_batch = False

    def switch(self, before: str, after: str) -> None:
        if self._record is not None:
            self._record.__exit__(None, None, None)
            self._record = None
        if before.startswith(SAMPLING) and not after.startswith(SAMPLING) and self._kind == SAMPLING:
            self._close()
        if self._kind == TRAINING and after.startswith(APART):
            self._close()
        if self._next_batch:
            self._boundary(TRAINING)
        elif after == NETWORK_OF_SAMPLES:
            self._boundary(SAMPLING)
        if self._trace is not None:
            self._record = record_function(after)
            self._record.__enter__()

    def _boundary(self, kind: str) -> None:
        """Count a batch of training, or a network call of sampling, before which a trace may begin or end."""
        if self._trace is None and kind not in self._texts:
            self._kind = kind
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda else [])]
            steps = self._schedules[kind]
            self._trace = profile(activities=activities, schedule=steps, on_trace_ready=self._save)
            self._name_modules()
            self._trace.__enter__()
        elif self._trace is not None and kind == self._kind:
            self._trace.step()
            if kind in self._texts:
                self._close()

    def _close(self) -> None:
        """End the trace; what it has recorded so far is written."""
        if self._record is not None:
            self._record.__exit__(None, None, None)
            self._record = None
        if self._trace is not None:
            trace, self._trace = self._trace, None
            trace.__exit__(None, None, None)
            self._schedules[self._kind] = _steps(0)  # if nothing was recorded, another trace need not wait
        for hook in self._named:
            hook.remove()
        self._named = []

    def _name_modules(self) -> None:
        """Let modules that are not compiled appear in the trace by their names."""
        open_now: dict[str, record_function] = {}

        def begin(name: str, *_: Any) -> None:
            open_now[name] = record_function(name)
            open_now[name].__enter__()

        def end(name: str, *_: Any) -> None:
            if name in open_now:
                open_now.pop(name).__exit__(None, None, None)

        for name, part in _not_compiled(self._module) if self._module is not None else ():
            self._named.append(part.register_forward_pre_hook(partial(begin, name)))
            self._named.append(part.register_forward_hook(partial(end, name)))

    def _save(self, trace: profile) -> None:
        """Write a trace, and keep its tables."""
        self.folder.mkdir(parents=True, exist_ok=True)
        trace.export_chrome_trace(str(self.folder / f"{self._kind}.json"))
        self._texts[self._kind] = self._tables(trace)

    def _tables(self, trace: profile) -> str:
        events = trace.events() or []
        on_cpu = [event for event in events if event.device_type == DeviceType.CPU]
        steps = max(1, sum(event.name.startswith("ProfilerStep") for event in on_cpu))
        phases = [event for event in on_cpu if event.name in ORDER]
        spans = [Span(event.name, event.time_range.start, event.time_range.end) for event in phases]
        title = f"{self._kind}: {steps} {'batches' if self._kind == TRAINING else 'network calls'}"
        operators = [row for row in trace.key_averages() if not row.is_user_annotation and row.self_cpu_time_total]
        return f"{title}\n\n{phase_table(spans, launches(events))}\n\n{operator_table(operators, self.cuda)}\n"

    def describe(self) -> None:
        self._close()
        if self._texts:
            write_text(self.folder / "pytorch.txt", "\n\n".join(self._texts.values()))


def _steps(wait: int) -> Callable[[int], ProfilerAction]:
    return schedule(wait=wait, warmup=WARM_UP, active=ACTIVE, repeat=1)


def _not_compiled(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the submodules of a module with their paths, but for those in compiled code, which calls no hooks."""
    for name, part in module.named_children():
        if getattr(part, "_compiled_call_impl", None) is None:
            yield f"{path}{name}", part
            yield from _not_compiled(part, f"{path}{name}.")


def launches(events: Iterable[Any]) -> list[tuple[float, float]]:
    """Return, of each kernel of a GPU in a trace, when the CPU has launched it, and how long it took, in microseconds.

    Args:
        events: torch's ``FunctionEvent`` of a trace. A kernel has the number of the call that launched it.
    """
    events = list(events)
    calls = {
        event.id: event.time_range.start
        for event in events
        if event.device_type == DeviceType.CPU and event.name.startswith(DRIVER)
    }
    kernels = [event for event in events if event.device_type == DeviceType.CUDA and not event.is_user_annotation]
    return [(calls[kernel.id], kernel.time_range.elapsed_us()) for kernel in kernels if kernel.id in calls]


def phase_table(spans: Sequence[Span], kernels: Sequence[tuple[float, float]]) -> str:
    """Return a table of the phases of a trace, with the time of the CPU and, of kernels, that of the GPU.

    A kernel belongs to the phase in which it was launched, by whatever thread, as that of the backward pass.

    Args:
        spans: the phases, which do not overlap.
        kernels: of each kernel when it was launched, and how long it took, in microseconds.
    """
    cpu, device, calls = defaultdict[str, float](float), defaultdict[str, float](float), Counter[str]()
    spans = sorted(spans, key=lambda span: span.start)
    starts = [span.start for span in spans]
    for span in spans:
        cpu[span.name] += span.end - span.start
        calls[span.name] += 1
    for start, duration in kernels:
        place = bisect.bisect_right(starts, start) - 1
        device[spans[place].name if place >= 0 and start <= spans[place].end else REST] += duration
    whole = sum(cpu.values()) or 1.0
    rows = [
        (
            *(name, calls[name], f"{cpu[name] / 1000:.2f}", f"{cpu[name] / whole:.1%}"),
            *([f"{device[name] / 1000:.2f}"] if kernels else []),
        )
        for name in sorted({*cpu, *device}, key=ORDER.__getitem__)
    ]
    return table(("phase", "times", "CPU ms", "share", *(["CUDA ms"] if kernels else [])), rows)


def operator_table(operators: Sequence[Any], cuda: bool) -> str:
    """Return a table of the operators that take longest, without the operators within them.

    Args:
        operators: torch's averages of the events of a trace, by operator.
        cuda: whether the time of the GPU decides, and is shown.
    """
    columns = ("operator", "calls", "CPU ms", *(["CUDA ms"] if cuda else []))
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    longest = sorted(operators, key=lambda row: float(getattr(row, key)), reverse=True)[:OPERATORS]
    rows = [
        (
            *(row.key, row.count, f"{row.self_cpu_time_total / 1000:.2f}"),
            *([f"{row.self_device_time_total / 1000:.2f}"] if cuda else []),
        )
        for row in longest
    ]
    return table(columns, rows)


# By what ``trainer.profiler`` is typed.
PROFILERS: dict[str, type[PhaseProfiler]] = {"simple": SimpleTimes, "advanced": PhaseFunctions, "pytorch": PhaseTrace}
