"""Tools for all parts of the benchmark: pairs of times a_i, b_i, taken in turn, and their ratios a_i / b_i.

Other load on the machine slows both times of a pair alike, so the median of the ratios is steadier than the ratio of
the medians.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from torch import nn
from typing_extensions import NotRequired, TypedDict

from diffsweep.callbacks.profilers import synchronize as synchronize
from diffsweep.datasets import ImageData
from diffsweep.models import DiffusionModel
from diffsweep.progress import tracked

SECONDS, BYTES, FLOPS = "s", "bytes", "FLOP/s"


class Ratio(TypedDict):
    """A measured ratio, ours over what it is compared with.

    Attributes:
        ratio: the median of the ratios of all repeats.
        low, high: numbers between which about 90 % of the ratios lie.
        ours, bare: the medians of both sides.
        unit: that of ``ours`` and ``bare``: :data:`SECONDS`, :data:`BYTES` or :data:`FLOPS`.
        phases: what ``ours`` is made of, if it has phases: the seconds of each, and those of the processor.
    """

    ratio: float
    low: float
    high: float
    ours: float
    bare: float
    unit: str
    phases: NotRequired[dict[str, tuple[float, float]]]


Results = dict[str, Ratio]  # by label


class Bench(NamedTuple):
    """The configuration and the functions that each part of ``benchmark.py`` receives.

    A part is a function that times one thing, such as ``training``. Modules of parts do not import
    :mod:`diffsweep.runs`, which imports them, so the functions that make a run's model and Trainer are given to them.

    Attributes:
        cfg: the configuration of ``benchmark.py``.
        fresh: a function of a configuration that returns a new model and its data, as a training run would have them;
            images are encoded to latents beforehand if the run would do so.
        trainer: a function of a configuration and callbacks that returns the Lightning Trainer of such a run.
        cost: a function of a configuration that returns what its network costs: ``parameters``, and ``gmac``,
            thousands of millions of multiply-adds of a sample.
        loggers: a function of a configuration that returns the loggers of such a run.
    """

    cfg: DictConfig
    fresh: Callable[[DictConfig], tuple[DiffusionModel, ImageData]]
    trainer: Callable[[DictConfig, list[Callback]], Trainer]
    cost: Callable[[DictConfig], Any]
    loggers: Callable[[DictConfig], Sequence[Logger]]


BenchmarkPart = Callable[[Bench], Results]
PARTS: dict[str, BenchmarkPart] = {}


def part(function: BenchmarkPart) -> BenchmarkPart:
    """Register a function as a part of ``benchmark.py``, which ``parts=[NAME]`` chooses by the function's name.

    The function takes a :class:`Bench` and returns results by label, as :func:`compare` and :func:`single` make them.
    It is returned unchanged.
    """
    PARTS[function.__name__] = function
    return function


def compare(ours: list[float], bare: list[float]) -> Ratio:
    """Return the median and the spread of the ratios of paired times, ours over bare, and the median of each side.

    Args:
        ours: seconds that our code takes, one number for each repeat.
        bare: seconds that the code which it is compared with takes, in the same repeats.

    Returns:
        ``ratio``, the median of the ratios; ``low`` and ``high``, between which about 90 % of the ratios lie (all of
        them for up to 11 repeats); and the medians ``ours`` and ``bare`` in seconds.
    """
    ratios = sorted(a / b for a, b in zip(ours, bare, strict=True))
    cut = round(0.05 * (len(ratios) - 1))
    return {
        "ratio": statistics.median(ratios),
        "low": ratios[cut],
        "high": ratios[-1 - cut],
        "ours": statistics.median(ours),
        "bare": statistics.median(bare),
        "unit": SECONDS,
    }


def single(ours: float, bare: float, unit: str) -> Ratio:
    """Return the result of one measurement of each side, whose ratio has no spread.

    Args:
        ours, bare: the two numbers, in the unit.
        unit: :data:`SECONDS`, :data:`BYTES` or :data:`FLOPS`.
    """
    ratio = ours / bare
    return {"ratio": ratio, "low": ratio, "high": ratio, "ours": ours, "bare": bare, "unit": unit}


class NetworkCalls:
    """A recorder of the time that every call of a module takes from now on, by hooks on the module.

    Times are by the CPU's clock, or of a module on a GPU by events in its queue of work.

    Args:
        module: the module whose calls are recorded, such as a network within a sampler.
    """

    def __init__(self, module: nn.Module) -> None:
        self.spans: list[tuple[Any, Any]] = []
        self.on_gpu = next(module.parameters()).is_cuda
        self._begin: Any = None
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def _before(self, *_: Any) -> None:
        self._begin = timestamp(self.on_gpu)

    def _after(self, *_: Any) -> None:
        self.spans.append((self._begin, timestamp(self.on_gpu)))

    def seconds(self) -> float:
        """Return the seconds that all calls of the module took since the last call of this method, and forget them.

        On a GPU, :func:`synchronize` must come first.
        """
        total = sum(seconds_between(*span) for span in self.spans)
        self.spans = []
        return total


def timestamp(on_gpu: bool) -> Any:
    """Return the present time for :func:`seconds_between`: seconds, or on a GPU an event in its queue of work."""
    if not on_gpu:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(begin: Any, end: Any) -> float:
    """Return the seconds between two results of :func:`timestamp`; on a GPU, :func:`synchronize` must come first."""
    return end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1000


def compare_with_calls(run: Callable[[], Any], network: nn.Module, steps: int, repeats: int, name: str) -> Ratio:
    """Return the ratio of the time of a loop of network calls to that of the calls alone, as :func:`compare` does.

    Both times are of the same run of the loop: on a shared machine two loops that are timed one after the other differ
    by more than what the loop adds to the calls.

    Args:
        run: a function that runs the loop once, such as all steps of a sampler.
        network: the module whose calls are timed within it.
        steps: the number of steps of the loop.
        repeats: how often the loop is timed; it runs once more before, to warm up.
        name: the label of the progress bar.
    """
    calls = NetworkCalls(network)
    ours, bare = [], []
    for repeat in tracked(range(repeats + 1), name, "repeat"):
        synchronize()
        begin = timestamp(calls.on_gpu)
        run()
        end = timestamp(calls.on_gpu)
        synchronize()
        inside = calls.seconds()
        if repeat > 0:  # the first one warms up
            ours.append(seconds_between(begin, end) / steps)
            bare.append(inside / steps)
    return compare(ours, bare)
