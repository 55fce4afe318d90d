"""Tools for all parts of the benchmark: pairs of times a_i, b_i, taken in turn, and their ratios a_i / b_i.

Other load on the machine slows both times of a pair alike, so the median of the ratios is steadier than the ratio of
the medians.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning import Callback, Trainer
from omegaconf import DictConfig
from torch import nn

from diffsweep.datasets import ImageData
from diffsweep.models import DiffusionModel
from diffsweep.progress import tracked

MEMORY = "memory"  # labels of results in bytes begin with it; all others are in seconds
Results = dict[str, dict[str, float]]


class Bench(NamedTuple):
    """The configuration and the tools that each part of the benchmark receives.

    Modules of the benchmark do not import :mod:`diffsweep.runs`, which imports them, so what makes a run's model and
    Trainer is given to them.

    Attributes:
        cfg: the configuration of ``benchmark.py``.
        fresh: makes a new model and its data for a configuration, as a run would; latents are kept if the run would
            keep them.
        trainer: makes the Trainer that a run would have, for a configuration and callbacks.
    """

    cfg: DictConfig
    fresh: Callable[[DictConfig], tuple[DiffusionModel, ImageData]]
    trainer: Callable[[DictConfig, list[Callback]], Trainer]


BenchmarkPart = Callable[[Bench], Results]
PARTS: dict[str, BenchmarkPart] = {}


def part(function: BenchmarkPart) -> BenchmarkPart:
    """Register a function as a part of the benchmark, which ``parts=[NAME]`` chooses by the function's name."""
    PARTS[function.__name__] = function
    return function


def compare(ours: list[float], bare: list[float]) -> dict[str, float]:
    """Return the median of the ratios of paired times, where 90 % of the ratios lie, and the median of each side.

    Args:
        ours: seconds, one for each repeat.
        bare: seconds of what ours is compared with, in the same repeats.

    Returns:
        ``ratio`` (median), ``low`` and ``high`` (90 % of the ratios are between them), and the medians ``ours`` and
        ``bare``.
    """
    ratios = sorted(a / b for a, b in zip(ours, bare, strict=True))
    cut = round(0.05 * (len(ratios) - 1))
    return {
        "ratio": statistics.median(ratios),
        "low": ratios[cut],
        "high": ratios[-1 - cut],
        "ours": statistics.median(ours),
        "bare": statistics.median(bare),
    }


def synchronize() -> None:
    """Wait until the GPU, if any, has finished its work, so that a clock on the CPU measures it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class NetworkCalls:
    """A recorder of the time that a module's calls take: by the CPU's clock, or on a GPU by its own events."""

    def __init__(self, module: nn.Module) -> None:
        self.spans: list[tuple[Any, Any]] = []
        self._begin: Any = None
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def _before(self, *_: Any) -> None:
        self._begin = timestamp()

    def _after(self, *_: Any) -> None:
        self.spans.append((self._begin, timestamp()))

    def seconds(self) -> float:
        """Return the total time of all calls since the last call of this method."""
        total = sum(seconds_between(*span) for span in self.spans)
        self.spans = []
        return total


def timestamp() -> Any:
    """Return the present time: seconds on the CPU's clock or, with a GPU, an event in its queue of work."""
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(begin: Any, end: Any) -> float:
    """Return the seconds between two timestamps; on a GPU, :func:`synchronize` must come first."""
    return end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1000


def compare_with_calls(
    run: Callable[[], Any], network: nn.Module, steps: int, repeats: int, name: str
) -> dict[str, float]:
    """Return the time of a loop of network calls over that of the calls alone, each per step.

    Both times are of the same run of the loop: on a shared machine two loops that are timed one after the other differ
    by more than what the loop adds to the calls.

    Args:
        run: runs the loop, such as all steps of a sampler.
        network: the module whose calls are timed within it.
        steps: the number of steps of the loop.
        repeats: how often the loop is timed; it runs once more before, to warm up.
        name: the label of the progress bar.
    """
    calls = NetworkCalls(network)
    ours, bare = [], []
    for repeat in tracked(range(repeats + 1), name, "repeat"):
        synchronize()
        begin = timestamp()
        run()
        end = timestamp()
        synchronize()
        inside = calls.seconds()
        if repeat > 0:  # the first one warms up
            ours.append(seconds_between(begin, end) / steps)
            bare.append(inside / steps)
    return compare(ours, bare)
