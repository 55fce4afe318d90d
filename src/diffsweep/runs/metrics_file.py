"""The history of a run in ``metrics.csv``."""

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from diffsweep.callbacks import STEPS_PER_SECOND, RunLogger
from diffsweep.files import write_text

OMITTED = ("epoch", STEPS_PER_SECOND)


class MetricsFile(RunLogger):
    """A Lightning logger that writes ``metrics.csv``, with a row for each logged step and a column for each metric.

    A resumed run continues the file; old rows after the first step that it logs are removed. (Lightning's CSVLogger
    deletes the file of an earlier fit in the same folder.) The speed of training is left out, so that equal runs have
    equal files.

    Args:
        path: the path of the file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._rows: dict[int, dict[str, str]] | None = None

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
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = int(step or 0)
        if self._rows is None:  # a resumed run replaces the rows after its first step
            self._rows = {k: row for k, row in read_history(self.path).items() if k <= step}
        row = self._rows.setdefault(step, {})
        row.update({name: f"{float(value):.8g}" for name, value in metrics.items() if name not in OMITTED})

    @rank_zero_only
    def save(self) -> None:
        if not self._rows:
            return
        columns = sorted({name for row in self._rows.values() for name in row})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["step", *columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"step": step, **self._rows[step]} for step in sorted(self._rows))
        write_text(self.path, text.getvalue())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def read_history(path: Path) -> dict[int, dict[str, str]]:
    """Return the rows of ``metrics.csv`` by step, each the logged metrics by name, as text; none without the file."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {int(row.pop("step")): {k: v for k, v in row.items() if v} for row in csv.DictReader(file)}
