"""What a run does first in its directory: it removes what a kill has left, and replaces a damaged checkpoint."""

import sys
from pathlib import Path

from diffsweep.callbacks.checkpoints import FOLDER, restore_last
from diffsweep.callbacks.power_averages import FOLDER as SNAPSHOTS
from diffsweep.comparison.history import last_step
from diffsweep.files import remove_leftovers


def recover(directory: Path, resuming: bool) -> None:
    """Remove temporary files from a run's directory, and put a whole checkpoint in the place of a damaged last one.

    A warning has the step that training goes on from. Only the process that holds the run's lock may call it.

    Args:
        directory: the run's directory.
        resuming: whether training goes on from ``last.ckpt``.

    Raises:
        UserError: ``last.ckpt`` is damaged, and no other checkpoint is whole.
    """
    for folder in (directory, directory / FOLDER, directory / SNAPSHOTS, directory / "samples"):
        remove_leftovers(folder)
    if resuming and (message := restore_last(directory / FOLDER, last_step(directory / "metrics.csv"))):
        print(f"warning: {message}", file=sys.stderr, flush=True)
