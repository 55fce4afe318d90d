"""What all parts of the benchmark share: pairs of times, taken in turn on one machine, and the ratio of each pair."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning import Callback, Trainer
from omegaconf import DictConfig
from torch import nn
from tqdm import tqdm

from diffsweep.datasets import ImageData
from diffsweep.models import DiffusionModel

MEMORY = "memory"  # how labels of results in bytes begin; all others are in seconds
Results = dict[str, dict[str, float]]


class Bench(NamedTuple):
    """What a part of the benchmark works with.

    Attributes:
        cfg: the configuration of ``benchmark.py``.
        fresh: a model and its data as a run has them, latents kept where the run would keep them.
        trainer: the run's Trainer, of a configuration and callbacks.
    """

    cfg: DictConfig
    fresh: Callable[[DictConfig], tuple[DiffusionModel, ImageData]]
    trainer: Callable[[DictConfig, list[Callback]], Trainer]


Part = Callable[[Bench], Results]
PARTS: dict[str, Part] = {}


def part(function: Part) -> Part:
    """Make a function a part of the benchmark, under its own name, for ``parts=[NAME]``."""
    PARTS[function.__name__] = function
    return function


def compare(ours: list[float], bare: list[float]) -> dict[str, float]:
    """Medians of paired times, the ratio of each pair in the median, and where 90 % of the ratios lie."""
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
    """Wait for the device, where the clock would not."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class NetworkCalls:
    """The times of a module's calls, taken where they happen: on the CPU's clock, or on the GPU's own."""

    def __init__(self, module: nn.Module) -> None:
        self.spans: list[tuple[Any, Any]] = []
        self._begin: Any = None
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def _before(self, *_: Any) -> None:
        self._begin = stamp()

    def _after(self, *_: Any) -> None:
        self.spans.append((self._begin, stamp()))

    def seconds(self) -> float:
        """The time of all calls since this was asked last."""
        total = sum(seconds_between(*span) for span in self.spans)
        self.spans = []
        return total


def stamp() -> Any:
    """A point in time of the device's work."""
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(begin: Any, end: Any) -> float:
    """Seconds between two stamps; on a GPU after :func:`synchronize`."""
    return end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1000


def within(run: Callable[[], Any], network: nn.Module, steps: int, repeats: int, name: str) -> dict[str, float]:
    """A walk of network calls against these calls, per step.

    Both are taken of the same walk: on a shared machine two loops timed after each other differ by more than what is added
    to the calls.
    """
    calls = NetworkCalls(network)
    ours, bare = [], []
    for repeat in tqdm(range(repeats + 1), desc=name, dynamic_ncols=True):
        synchronize()
        begin = stamp()
        run()
        end = stamp()
        synchronize()
        inside = calls.seconds()
        if repeat > 0:  # the first one warms up
            ours.append(seconds_between(begin, end) / steps)
            bare.append(inside / steps)
    return compare(ours, bare)
