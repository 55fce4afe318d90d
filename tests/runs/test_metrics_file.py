"""metrics.csv: a row for each step, appended at a constant cost, whole after a kill at any byte."""

import csv
import errno

import pytest
import torch
from full_disk import fill

from diffsweep.comparison.history import POINTS, last_step, last_values, read_history, rows
from diffsweep.files import DiskFull
from diffsweep.runs import metrics_file
from diffsweep.runs.metrics_file import MetricsFile


def logged(path, *rows):
    file = MetricsFile(path)
    for step, metrics in rows:
        file.log_metrics(metrics, step)
    file.save()
    return path.read_text()


def test_one_row_a_step_and_one_column_a_metric(tmp_path):
    rows = ((2, {"b": 0.5, "epoch": 0}), (4, {"b": 1 / 3}), (4, {"a": torch.tensor(2.0)}))
    assert logged(tmp_path / "metrics.csv", *rows) == "step,a,b\n2,,0.5\n4,2,0.33333333\n"


def test_a_resumed_run_replaces_the_rows_after_its_first_step(tmp_path):
    path = tmp_path / "metrics.csv"
    logged(path, (1, {"a": 1}), (2, {"a": 2}), (3, {"a": 3}), (4, {"a": 4}))
    assert logged(path, (3, {"a": 30})) == "step,a\n1,1\n2,2\n3,30\n"
    assert logged(path, (5, {"b": 50})) == "step,a,b\n1,1,\n2,2,\n3,30,\n5,,50\n"


def test_a_run_that_logs_nothing_leaves_the_file(tmp_path):
    path = tmp_path / "metrics.csv"
    before = logged(path, (1, {"a": 1}))
    file = MetricsFile(path)
    file.finalize("success")
    assert path.read_text() == before


def test_a_metric_that_is_new_late_has_a_column(tmp_path):
    """Also one of an earlier step, whose row is in its place; the file is then what it would be in order."""
    path = tmp_path / "metrics.csv"
    text = logged(path, (1, {"b": 1}), (2, {"b": 2}), (4, {"b": 4}), (4, {"a": 0.5}), (3, {"c": 3}), (2, {"b": 20}))
    assert text == "step,a,b,c\n1,,1,\n2,,20,\n3,,,3\n4,0.5,4,\n"


def training(file, first, steps):
    """Log every step, a validation each tenth, and results at the end, as training does."""
    for step in range(first, steps + 1):
        file.log_metrics({"train/loss": 1 / step, "train/lr": 1e-3, "epoch": 0}, step)
        file.save()
        if step % 10 == 0:
            file.log_metrics({"val/loss": 2 / step}, step)
            file.save()


@pytest.fixture
def written(monkeypatch):
    """The bytes of each change of the end of a file, and the names of the files that were written anew."""
    ends, anew = [], []
    put, whole = metrics_file.write_end, metrics_file.whole_file

    def write_end(path, begin, content, sync=False):
        ends.append(path.stat().st_size - begin + len(content))  # read, cut and written
        put(path, begin, content, sync)

    def whole_file(path):
        anew.append(path.name)
        return whole(path)

    monkeypatch.setattr(metrics_file, "write_end", write_end)
    monkeypatch.setattr(metrics_file, "whole_file", whole_file)
    return ends, anew


def test_a_log_writes_one_row_whatever_the_number_of_rows(tmp_path, written):
    """The file is written anew for its first row and for the first validation, and never read or written otherwise."""
    ends, anew = written
    path = tmp_path / "metrics.csv"
    training(MetricsFile(path), 1, 2000)
    longest = max(map(len, path.read_bytes().splitlines(keepends=True)))
    assert len(ends) == 2000 + 200 - 2
    assert max(ends) <= 2 * longest
    assert anew == ["metrics.csv"] * 2
    assert [step for step, _ in rows(path)] == list(range(1, 2001))


def test_a_logger_keeps_its_last_row_alone(tmp_path):
    """What it refers to has the same size after 20 and after 2,000 steps."""

    def items(value):
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        return 1 + sum(map(items, inside))

    file = MetricsFile(tmp_path / "metrics.csv")
    training(file, 1, 20)
    before = items(vars(file))
    training(file, 21, 2000)
    assert items(vars(file)) == before


def test_a_file_that_is_cut_at_any_byte_is_read_and_continued(tmp_path):
    """Its whole rows are read, and a run that is resumed after any of them ends with the file of one never killed."""
    whole, path = tmp_path / "whole.csv", tmp_path / "metrics.csv"
    training(MetricsFile(whole), 1, 22)
    content = whole.read_bytes()
    for cut in range(content.index(b"\n") + 1, len(content) + 1):
        path.write_bytes(content[:cut])
        steps = [int(line.split(b",")[0]) for line in content[:cut].splitlines(keepends=True)[1:] if b"\n" in line]
        assert [step for step, _ in rows(path)] == steps
        assert [step for step, _ in read_history(path).get("train/loss", [])] == steps
        assert last_step(path) == (steps[-1] if steps else None)
        if cut % 23 == 0:
            file = MetricsFile(path)
            training(file, max(1, len(steps)), 22)  # the step of the last whole row is logged again
            assert path.read_bytes() == content


def test_a_file_that_another_program_has_changed_is_put_in_order(tmp_path):
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path)
    file.log_metrics({"a": 1}, 1)
    file.log_metrics({"a": 2}, 2)
    path.write_text("step,a\r\n1,1\r\n2,2\r\n")
    file.log_metrics({"a": 3}, 3)
    assert path.read_text() == "step,a\n1,1\n2,2\n3,3\n"
    path.unlink()
    file.log_metrics({"a": 4}, 4)
    assert path.read_text() == "step,a\n4,4\n"


def test_a_full_disk_leaves_the_last_row_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path)
    for step, metrics in ((1, {"a": 1, "b": 1}), (2, {"a": 2})):
        file.log_metrics(metrics, step)
    before = path.read_text()
    fill(monkeypatch, lambda data: b"2,2,5" in data)
    with pytest.raises(DiskFull, match=r"metrics\.csv cannot be written, the disk is full") as error:
        file.log_metrics({"b": 5}, 2)
    assert error.value.errno != errno.ENOSPC
    assert path.read_text() == before


def test_the_last_values_are_those_of_reading_all_rows(tmp_path, monkeypatch):
    """They are read from the end in blocks, of which each border falls into a row."""
    path = tmp_path / "metrics.csv"
    training(MetricsFile(path), 1, 500)
    MetricsFile(path).log_metrics({"eval/fid": 3.5}, 500)
    expected = {"step": 500.0}
    for _, row in rows(path):
        expected |= {name: float(value) for name, value in row.items()}
    for block in (1, 7, 64, 1 << 16):
        monkeypatch.setattr("diffsweep.comparison.history.BLOCK", block)
        assert last_values(path) == expected


def test_a_long_curve_is_thinned_alike_for_runs_of_any_length(tmp_path):
    """The points are each 2^j-th one and the last, so that of two runs all points of the coarser are in both."""
    curves = []
    for count in (POINTS, 2 * POINTS, 2 * POINTS + 1, 5 * POINTS + 3):
        path = tmp_path / "metrics.csv"
        path.write_text("step,a\n" + "".join(f"{step},{step}\n" for step in range(1, count + 1)))
        curves.append(read_history(path)["a"])
        assert curves[-1][-1] == (count, count)
        assert POINTS <= len(curves[-1]) <= 2 * POINTS
    assert [curve[1][0] - curve[0][0] for curve in curves] == [1, 1, 2, 4]
    assert set(curves[3][:-1]) & set(curves[1]) == {point for point in curves[3] if point[0] < 2 * POINTS}


def test_spreadsheets_read_one_row_of_equal_length_a_step(tmp_path):
    path = tmp_path / "metrics.csv"
    training(MetricsFile(path), 1, 30)
    with path.open(newline="") as file:
        table = list(csv.reader(file))
    assert {len(row) for row in table} == {4}
    assert table[0] == ["step", "train/loss", "train/lr", "val/loss"]
    assert table[10] == ["10", "0.1", "0.001", "0.2"]
