"""Read the curves of ``metrics.csv``, a table with a row for each logged step and a column for each metric."""

import csv
from collections.abc import Iterator
from pathlib import Path


def read_history(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the points (step, value) of each column of a ``metrics.csv``; empty if it does not exist."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in _rows(path):
        for name, value in row.items():
            curves.setdefault(name, []).append((int(row["step"]), value))
    curves.pop("step", None)
    return curves


def last_values(path: Path) -> dict[str, float]:
    """Return the last value of each column of a ``metrics.csv``; empty if it does not exist."""
    found: dict[str, float] = {}
    for row in _rows(path):
        found.update(row)
    return found


def _rows(path: Path) -> Iterator[dict[str, float]]:
    """Yield the numbers in each row of a table by column; rows without a step are left out."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            numbers = {name: value for name, text in row.items() if name and (value := _number(text)) is not None}
            if "step" in numbers:
                yield numbers


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except (TypeError, ValueError):
        return None
