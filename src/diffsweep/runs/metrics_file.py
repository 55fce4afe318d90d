"""The history of a run in ``metrics.csv``."""

import csv
import io
import math
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from diffsweep.callbacks import STEPS_PER_SECOND, RunLogger
from diffsweep.comparison.history import rows
from diffsweep.files import whole_file, write_end
from diffsweep.phases import LOGGING, counted_as

OMITTED = ("epoch", STEPS_PER_SECOND)
SYNC = 10  # seconds after which the rows so far must be on the disk, whatever the machine does

LoggedRow = tuple[int, dict[str, str]]  # a step, and the values of some columns as text


class MetricsFile(RunLogger):
    """A Lightning logger that writes ``metrics.csv``, with a row for each logged step and a column for each metric.

    A row is appended, so that a log costs as much in step 1,000,000 as in step 1, and nothing of earlier rows is in
    memory. The last row is cut and written again with more values where its step is logged twice. Only a metric that is
    new, at most once for each column, makes the file be written anew, row by row, through a temporary file. A kill at
    any moment leaves all rows but the last one whole.

    A resumed run continues the file; old rows after the first step that it logs are removed. (Lightning's CSVLogger
    deletes the file of an earlier fit in the same folder.) The speed of training is left out, so that equal runs have
    equal files.

    Args:
        path: the path of the file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._columns: list[str] | None = None  # beside the step; None before the first log
        self._row: LoggedRow = (0, {})  # the last one
        self._begin = self._end = 0  # of the last row, in bytes from the start of the file
        self._synced = time.monotonic()

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Write nothing: the configuration has a file of its own."""

    @rank_zero_only
    @counted_as(LOGGING)
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        step = int(step or 0)
        values = {name: f"{float(value):.8g}" for name, value in metrics.items() if name not in OMITTED}
        if self._columns is None:  # a resumed run replaces the rows after its first step
            self._write_anew((step, values), after=step)
        elif step < self._row[0] or not values.keys() <= set(self._columns) or self._size() != self._end:
            self._write_anew((step, values))
        elif step == self._row[0]:
            self._write_last((step, self._row[1] | values))
        else:
            self._begin = self._end
            self._write_last((step, values))

    def _size(self) -> int:
        """Return the size of the file, which differs from that of our rows if somebody else has changed it."""
        try:
            return self.path.stat().st_size
        except OSError:
            return -1

    def _write_last(self, row: LoggedRow) -> None:
        """Write a row at the place of the last one, which is cut first: a kill leaves no mixture of both."""
        line, now = self._line(row), time.monotonic()
        due = now - self._synced > SYNC
        write_end(self.path, self._begin, line, sync=due)
        self._synced = now if due else self._synced
        self._row, self._end = row, self._begin + len(line)

    def _write_anew(self, row: LoggedRow, after: float = math.inf) -> None:
        """Write the whole file with the values of a row added, in sorted columns, without rows after a step."""
        used = {name for step, values in rows(self.path) if step <= after for name in values}
        self._columns = sorted(used | row[1].keys())
        with whole_file(self.path) as file:
            file.write(_csv(["step", *self._columns]))
            for last in _merged((old for old in rows(self.path) if old[0] <= after), row):
                self._row, self._begin = last, file.tell()
                file.write(self._line(last))
            self._end = file.tell()

    def _line(self, row: LoggedRow) -> bytes:
        return _csv([str(row[0]), *(row[1].get(name, "") for name in self._columns or ())])

    @rank_zero_only
    def save(self) -> None:
        """Write nothing: each row is in the file when it is logged."""


def _merged(before: Iterable[LoggedRow], row: LoggedRow) -> Iterator[LoggedRow]:
    """Yield rows in the order of steps, with another one at its place or its values in the row of its step."""
    step, values = row
    placed = False
    for old in before:
        if not placed and old[0] >= step:
            placed = True
            if old[0] > step:
                yield row
            else:
                old = (step, old[1] | values)
        yield old
    if not placed:
        yield row


def _csv(fields: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue().encode()
