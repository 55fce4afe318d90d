"""The memory of a training does not grow with its steps."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"
STEPS, EARLY, LATE = 1100, 300, 1050
# A package with a callback that prints the resident memory of the process after some steps.
WATCHING = f"""
from pathlib import Path
from lightning import Callback

class Watching(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step in ({EARLY}, {LATE}):
            print("step", trainer.global_step, Path("/proc/self/status").read_text(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the system has no /proc")
def test_memory_is_that_of_earlier_steps(tmp_path, fast, environment):
    """Within 2 %, between validations, with averages, logs and checkpoints on the way."""
    (tmp_path / "watching.py").write_text(WATCHING)
    small = ("backbone.channels=8", "dataset.batch_size=4", f"trainer.max_steps={STEPS}", "trainer=cpu")
    often = ("trainer.val_check_interval=100", "trainer.log_every_n_steps=10", "callbacks=default")
    pictures = ("callbacks.sample_grid.num_samples=1", "callbacks.sample_grid.steps=1")
    package = ("+callbacks.watching._target_=watching.Watching", "trust=[watching]", "paths.run_dir=run")
    line = [sys.executable, SRC / "train.py", *fast, *small, *often, *pictures, *package]
    done = subprocess.run(
        line,
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^step (\d+) .*?^VmRSS:\s+(\d+) kB", done.stdout, re.MULTILINE | re.DOTALL)
    (early, before), (late, after) = [(int(step), int(size)) for step, size in found]
    assert (early, late) == (EARLY, LATE)
    assert after <= 1.02 * before, (before, after)
