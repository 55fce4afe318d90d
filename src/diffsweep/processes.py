"""Which of the processes of a run this one is, as far as the environment states it before they have joined.

``torchrun`` sets ``RANK`` and ``WORLD_SIZE``, and ``srun`` of Slurm ``SLURM_PROCID`` and ``SLURM_NTASKS``. Where
neither has started the processes, Lightning starts one for each device of a machine and numbers them by ``LOCAL_RANK``;
on each of several machines the user starts the command with its ``NODE_RANK``.
"""

import os

NUMBERS = ("RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK")
INTERACTIVE = ("bash", "interactive")  # names of jobs of Slurm in which commands are typed, and srun starts none


def starts_first() -> bool:
    """Return whether this process is alone or the first of its run, which checks the run and claims its directory."""
    return all(int(os.environ.get(name) or 0) == 0 for name in NUMBERS)


def started() -> int | None:
    """Return how many processes ``torchrun`` or ``srun`` has started, with this one; None if neither has started it."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE:
        return int(os.environ["SLURM_NTASKS"])
    return None
