"""A run on several devices of which one process (rank) has ended: the others cannot go on, and end in one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from diffsweep.errors import Failed, line_of
from diffsweep.layers.distributed import distributed

LOST = re.compile(r"connection (was )?(closed|reset)|broken pipe|remote process exited|socket timeout", re.IGNORECASE)


@contextmanager
def errors_of_ranks() -> Iterator[None]:
    """Turn the errors of torch.distributed that another process has ended into a one-line error, within a context.

    Raises:
        Failed: another process of the run has ended; its own message is the one that matters.
    """
    try:
        yield
    except RuntimeError as error:
        if distributed() and LOST.search(line_of(error)):
            rank = torch.distributed.get_rank()
            raise Failed(
                f"another process of this run has ended, so process {rank} ends too; the message of the other one "
                "states why, and resume= goes on from the last checkpoint"
            ) from error
        raise
