"""Profilers of a training: where its time goes, by phases that do not overlap.

Lightning calls a profiler around each of its actions, and code of ours marks itself (:mod:`diffsweep.phases`). Of
actions within actions the innermost one that belongs to a phase counts, so that the times of the phases add up to that
of the run.
"""

import cProfile
import io
import pstats
import time
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch.profilers import Profiler, SimpleProfiler
from torch import nn

from diffsweep.files import write_text
from diffsweep.phases import (
    APART,
    BACKWARD,
    CHECKPOINTS,
    DATA,
    IN_A_STEP,
    LOSS,
    NETWORK,
    OPTIMIZER,
    PHASES,
    REST,
    VALIDATION,
)

FOLDER = "profile"  # in the run's directory
STEP, NEXT_BATCH = "run_training_batch", "train_dataloader_next"  # actions of Lightning, one each of a batch
FUNCTIONS = 25  # of a phase in the table of ``advanced``
# Pieces of the names of Lightning's actions, and the phases of such actions; others belong to the phase around them.
ACTIONS = {
    NEXT_BATCH: DATA,
    "batch_to_device": DATA,
    "transfer_batch": DATA,
    "save_checkpoint": CHECKPOINTS,
    "training_step": LOSS,
    "backward": BACKWARD,
    "zero_grad": OPTIMIZER,
    "optimizer_step": OPTIMIZER,
    "clip_gradients": OPTIMIZER,
    "configure_gradient_clipping": OPTIMIZER,
    "lr_scheduler_step": OPTIMIZER,
    "validation": VALIDATION,
    "val_next": VALIDATION,
}
ORDER = {name: number for number, name in enumerate([*PHASES[:-1], *(f"{outer}: {NETWORK}" for outer in APART), REST])}
Kept = TypeVar("Kept")


def synchronize() -> None:
    """Wait until the GPU has finished its work, so that a clock on the CPU measures it; do nothing without a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class PhaseProfiler(Profiler):
    """A profiler of Lightning's that splits time into phases; a subclass defines what is done where one ends.

    Args:
        folder: of the files that it writes; it is made when they are.
        batches: the batches of the training.

    Attributes:
        calls: how often each phase began.
        batches_seen: the batches that training has taken.
    """

    def __init__(self, folder: Path, batches: int) -> None:
        super().__init__()
        self.folder, self.batches = folder, batches
        self.calls: Counter[str] = Counter()
        self.batches_seen = 0
        self._open = [REST]  # the phases of the actions that have begun, the innermost last

    def start(self, action_name: str) -> None:
        self.batches_seen += action_name == STEP
        outer = self._open[-1]
        name = _phase_of(action_name, outer)
        self._open.append(name)
        if name != outer:
            self.calls[name] += 1
            self.switch(outer, name)

    def stop(self, action_name: str) -> None:
        if len(self._open) > 1 and (name := self._open.pop()) != self._open[-1]:
            self.switch(name, self._open[-1])

    def watch(self, module: nn.Module) -> None:
        """Get to know the model, whose submodules a trace names; by default nothing is done."""

    @abstractmethod
    def switch(self, before: str, after: str) -> None:
        """End a phase and begin another; subclasses define it."""

    def describe(self) -> None:
        """Write the files, which replace those of an earlier call."""


def _phase_of(action: str, outer: str) -> str:
    """Return the phase of an action of Lightning's or of a mark of ours, within a phase."""
    found = action if action in PHASES else next((name for piece, name in ACTIONS.items() if piece in action), outer)
    around = outer.partition(":")[0]
    if around in APART and found in (NETWORK, LOSS):
        return f"{around}: {NETWORK}" if found == NETWORK else outer
    return found


class PhaseTimes(PhaseProfiler):
    """A profiler that counts the seconds of each phase; on a GPU phases wait for each other, which takes time itself.

    Attributes:
        seconds: of each phase so far.
    """

    def __init__(self, folder: Path, batches: int) -> None:
        super().__init__(folder, batches)
        self.seconds: dict[str, float] = defaultdict(float)
        self._since = time.perf_counter()

    def switch(self, before: str, after: str) -> None:
        synchronize()
        now = time.perf_counter()
        self.seconds[before] += now - self._since
        self._since = now


class SimpleTimes(PhaseTimes):
    """``trainer.profiler=simple``: a table of the phases and one of Lightning's actions, in ``profile/simple.txt``."""

    def __init__(self, folder: Path, batches: int) -> None:
        super().__init__(folder, batches)
        self._actions = SimpleProfiler()

    def start(self, action_name: str) -> None:
        super().start(action_name)
        if action_name not in PHASES:
            self._actions.start(action_name)

    def stop(self, action_name: str) -> None:
        super().stop(action_name)
        if action_name not in PHASES:
            self._actions.stop(action_name)

    def describe(self) -> None:
        self.switch(self._open[-1], self._open[-1])
        whole, batches = sum(self.seconds.values()), max(1, self.batches_seen)
        rows = [
            (
                *(name, self.calls[name] or "", f"{spent:.2f}", f"{spent / whole:.1%}"),
                f"{1000 * spent / batches:.2f}" if name in IN_A_STEP else "",
            )
            for name, spent in in_order(self.seconds).items()
        ]
        head = f"{self.batches_seen} training batches, {whole:.1f} s in all. Phases do not overlap.\n\n"
        columns = ("phase", "times", "seconds", "share", "ms a batch")
        actions = "\n\nActions of Lightning, which contain each other\n" + self._actions.summary()
        write_text(self.folder / "simple.txt", head + table(columns, rows) + actions)


class PhaseFunctions(PhaseProfiler):
    """``trainer.profiler=advanced``: the functions of each phase by Python's cProfile, which makes all slower.

    The table is ``profile/advanced.txt``; the whole is in ``profile/PHASE.prof`` for viewers such as snakeviz.
    """

    def __init__(self, folder: Path, batches: int) -> None:
        super().__init__(folder, batches)
        self._profiles: dict[str, cProfile.Profile] = defaultdict(cProfile.Profile)

    def switch(self, before: str, after: str) -> None:
        self._profiles[before].disable()
        if len(self._open) > 1:  # nothing outside of all actions is counted
            self._profiles[after].enable()

    def describe(self) -> None:
        self._profiles[self._open[-1]].disable()
        texts = []
        for name in in_order(self._profiles):
            text = io.StringIO()
            self._profiles[name].create_stats()
            if not self._profiles[name].stats:  # type: ignore[attr-defined]
                continue
            stats = pstats.Stats(self._profiles[name], stream=text)
            file = self.folder / f"{name.replace(': ', '_').replace(' ', '_')}.prof"
            file.parent.mkdir(parents=True, exist_ok=True)
            stats.dump_stats(file)
            stats.strip_dirs().sort_stats("tottime").print_stats(FUNCTIONS)
            texts.append(f"{name}, begun {self.calls[name]} times\n{text.getvalue().rstrip()}\n")
        write_text(self.folder / "advanced.txt", "\n\n".join(texts))


def in_order(found: dict[str, Kept]) -> dict[str, Kept]:
    """Return what is given by phase in the order of a training step, and of what follows it."""
    return {name: found[name] for name in sorted(found, key=ORDER.__getitem__)}


def table(columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows of a table as aligned lines, the first column flush left and the others flush right."""
    words = [columns, *(tuple(map(str, row)) for row in rows)]
    first, *others = [max(map(len, column)) for column in zip(*words, strict=True)]
    lines = ([name.ljust(first), *map(str.rjust, values, others)] for name, *values in words)
    return "\n".join("  ".join(line).rstrip() for line in lines)
