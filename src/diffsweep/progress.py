"""Progress of long work: a bar on a terminal, and in a log file a plain line every 30 seconds and one at the end."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from types import TracebackType
from typing import Any, TextIO, TypeVar

T = TypeVar("T")
EVERY = 30.0  # seconds between the lines


class ProgressMeter:
    """Show the progress of a loop on standard error: on a terminal as tqdm's bar, elsewhere as lines.

    A line is written every 30 seconds and at the end, for example::

        training           step 1200/4000   loss 0.0231   412 samples/s   1 min 3 s left

    As a context manager it writes its last line when the block ends, and none when an error ends the block.
    ``TQDM_DISABLE=1`` turns both forms off. ``TQDM_MININTERVAL`` sets the seconds between lines, as between updates of
    the bar.

    Args:
        name: the name of the work, as it is shown.
        total: number of steps in all; None if it is unknown.
        unit: name of one step.
        initial: number of steps that were done before, as in a resumed run.
        details: returns texts to show in place of the rate, such as a loss. It is called only for a line, or on a
            terminal at each update, so that a number is rarely read from the device.
        disable: show nothing, as in all processes of a run but the first.
        file: where to write; None for standard error.
        clock: gives the time in seconds; None for ``time.perf_counter``.
    """

    def __init__(
        self,
        name: str,
        total: int | None = None,
        unit: str = "step",
        initial: int = 0,
        details: Callable[[], Sequence[str]] | None = None,
        disable: bool = False,
        file: TextIO | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.name, self.total, self.unit, self.count = name, total, unit, initial
        self._details, self._file, self._clock = details, file or sys.stderr, clock or time.perf_counter
        self._every = float(os.environ.get("TQDM_MININTERVAL", EVERY))
        self.on_terminal = self._file.isatty()
        self.disabled = disable or bool(os.environ.get("TQDM_DISABLE"))
        self._initial = self._count_shown = initial
        self._begin = self._shown_at = self._clock()
        self._bar: Any = None
        if self.on_terminal and not self.disabled:
            from tqdm import tqdm  # here: tab completion should not wait for it

            self._bar = tqdm(
                total=total, initial=initial, desc=name, unit=f" {unit}", dynamic_ncols=True, file=self._file
            )

    def update(self, count: int = 1) -> None:
        """Add ``count`` finished steps; update the bar, or write a line if the last one is long enough ago."""
        self.count += count
        if self._bar is not None:
            if self._details is not None:
                self._bar.set_postfix_str(", ".join(self._details()), refresh=False)
            self._bar.update(count)
        elif not self.disabled and (now := self._clock()) - self._shown_at >= self._every:
            rate = self._rate(self.count - self._count_shown, now - self._shown_at)
            self._count_shown, self._shown_at = self.count, now
            self._write(rate, self._left(now - self._begin))

    def close(self, finished: bool = True) -> None:
        """End the display: remove the bar of a terminal, or else write the last line; a second call does nothing.

        Args:
            finished: whether the work is done; without a terminal, False writes no line.
        """
        if self._bar is not None:
            self._bar.close()
        elif finished and not self.disabled:
            seconds = self._clock() - self._begin
            self._write(self._rate(self.count - self._initial, seconds), f"in {duration(seconds)}")
        self._bar, self.disabled = None, True

    def __enter__(self) -> "ProgressMeter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(finished=kind is None)

    def _write(self, rate: str, time_of: str) -> None:
        width = len(str(self.total or ""))
        steps = f"{self.unit} {self.count:>{width}}" + (f"/{self.total}" if self.total is not None else "")
        details = self._details() if self._details is not None else [rate]
        sys.stdout.flush()  # where both streams go to one file, what was printed before comes first
        print(f"  {self.name:<16}", *filter(None, [steps, *details, time_of]), sep="   ", file=self._file, flush=True)

    def _rate(self, count: int, seconds: float) -> str:
        units = f"{self.unit}{'es' if self.unit.endswith('ch') else 's'}"
        rate = count / seconds if seconds > 0 else 0.0
        return f"{rate:{',.0f' if rate >= 100 else '.3g'}} {units}/s" if seconds > 0 else ""

    def _left(self, seconds: float) -> str:
        done = self.count - self._initial
        return f"{duration(seconds / done * (self.total - self.count))} left" if self.total is not None and done else ""


def tracked(items: Iterable[T], name: str, unit: str = "step") -> Iterator[T]:
    """Yield the items of an iterable, and show on standard error how many of them have been worked through.

    An item counts when the next one is requested. Without a length of ``items`` no total is shown.

    Args:
        items: the items.
        name: the name of the work, as it is shown.
        unit: name of one item.
    """
    with ProgressMeter(name, len(items) if isinstance(items, Sized) else None, unit) as progress:
        for item in items:
            yield item
            progress.update()


def duration(seconds: float) -> str:
    """Return seconds in words, rounded to whole ones: ``75`` is ``1 min 15 s``, ``7500`` is ``2 h 5 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
