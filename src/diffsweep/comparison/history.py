"""Read ``metrics.csv``, a table with a row for each logged step and a column for each metric.

The file is written while it is read, and a kill may cut its last line. So a row counts if its line has an end, a step
and a field for each column; others are left out. A file of a million rows is read row by row, or from its end.
"""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

POINTS = 10_000  # of a curve that are kept at least, if it has so many
BLOCK = 1 << 16  # bytes that are read at once from the end of a file


def rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the step and the values of each row of a ``metrics.csv``, by column, as text; none without the file."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        lines = csv.reader(line for line in file if line.endswith("\n"))
        names = next(lines, [])
        for fields in lines:
            if (row := _row(names, fields)) is not None:
                yield row


def last_step(path: Path) -> int | None:
    """Return the last step of a ``metrics.csv``; None if it has no row or does not exist."""
    step = last_values(path, ("step",)).get("step")
    return None if step is None else int(step)


def read_history(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the points (step, value) of each column of a ``metrics.csv``; empty if it does not exist.

    Of a curve of more than 20,000 points each second one is kept, of more than 40,000 each fourth, and so on. Which
    ones depends on their number alone, so that runs which log at the same steps keep the same points. The last one is
    always kept.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    counts: dict[str, int] = {}
    ends: dict[str, tuple[int, float]] = {}
    for step, row in rows(path):
        for name, text in row.items():
            if (value := _number(text)) is None:
                continue
            count, curve = counts.get(name, 0), curves.setdefault(name, [])
            stride = 1 << max(0, (count // POINTS).bit_length() - 1)
            if count == POINTS * stride and stride > 1:
                del curve[1::2]
            if count % stride == 0:
                curve.append((step, value))
            counts[name], ends[name] = count + 1, (step, value)
    return {name: curve if curve[-1] == ends[name] else [*curve, ends[name]] for name, curve in curves.items()}


def last_values(path: Path, names: Sequence[str] | None = None) -> dict[str, float]:
    """Return the last value of each column of a ``metrics.csv``; empty if it does not exist.

    The file is read from its end until every value is found.

    Args:
        path: the file.
        names: the columns; None for all, the step among them.
    """
    found: dict[str, float] = {}
    if not path.is_file():
        return found
    with path.open("rb") as file:
        columns = next(csv.reader([_text(file.readline())]), [])
        wanted = [name for name in columns if names is None or name in names]
        for line in lines_backwards(file, file.tell()):
            if not wanted:
                break
            row = _row(columns, _text(line).rstrip("\r\n").split(","))
            if row is None:
                continue
            values = {"step": str(row[0]), **row[1]}
            found |= {name: value for name in wanted if (value := _number(values.get(name))) is not None}
            wanted = [name for name in wanted if name not in found]
    return found


def lines_backwards(file: BinaryIO, begin: int) -> Iterator[bytes]:
    """Yield the lines of an open file from the last one back to the position ``begin``; a line without end is left out.

    Args:
        file: a file opened for binary reading.
        begin: the position of the first line, in bytes.
    """
    position, rest = file.seek(0, io.SEEK_END), b""
    while position > begin:
        size = min(BLOCK, position - begin)
        position -= size
        file.seek(position)
        first, *lines = (file.read(size) + rest).splitlines(keepends=True)
        yield from (line for line in reversed(lines) if line.endswith(b"\n"))
        rest = first
    if rest.endswith(b"\n"):
        yield rest


def _row(names: Sequence[str], fields: Sequence[str]) -> tuple[int, dict[str, str]] | None:
    """Return the step of a row and its values by column; None for a row that is damaged."""
    if len(fields) != len(names):
        return None
    values = {name: text for name, text in zip(names, fields, strict=True) if text}
    step = _number(values.pop("step", None))
    return None if step is None or not math.isfinite(step) else (int(step), values)


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace")


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
