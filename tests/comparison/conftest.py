"""Directories of runs and sweeps as training leaves them, written without training."""

import pytest
import written_runs


@pytest.fixture
def write_run():
    """``write_run(folder, metrics, choices, values, protocol, losses)`` writes the files of a finished run."""
    return written_runs.write_run


@pytest.fixture
def write_sweep(tmp_path):
    """``folder = write_sweep({("linear", 0): fid})`` writes a sweep over schedules and seeds with its manifest."""

    def write_sweep(values, name="sweep", **more):
        return written_runs.write_sweep(tmp_path / name, values, **more)

    return write_sweep
