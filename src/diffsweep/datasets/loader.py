"""PyTorch's DataLoader with processes that prepare batches, whose errors reach the user in one line."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from diffsweep.datasets.samples import Batch
from diffsweep.errors import Stopped, UserError, line_of
from diffsweep.files import ContentError

PATIENCE = 600  # seconds for a batch, after which a process that prepares it is taken to hang
DEAD = re.compile(r"DataLoader worker.* (?:exited unexpectedly|killed by signal: (?P<signal>\w+))")


class Failure(NamedTuple):
    """A result that a worker process sends in place of a batch that it could not prepare.

    Attributes:
        message: the one-line message of the error, which the training process raises.
    """

    message: str


class _Guarded(Dataset[Any]):
    """A dataset of which unreadable content is a :class:`Failure` in a worker, since PyTorch would add stack traces.

    A StopIteration or an exit in the code of a dataset is unreadable content too: it would end the epoch, or the
    program, as if all batches had been prepared.
    """

    def __init__(self, dataset: Dataset[Batch]) -> None:
        self.dataset = dataset

    def __getitem__(self, which: Any) -> Any:
        try:
            return self._whole(which)
        except (ContentError, UserError) as error:
            if get_worker_info() is None:
                raise
            return Failure(str(error))

    def _whole(self, which: Any) -> Any:
        """Return a batch; an exception that other programs take for an end becomes a ContentError."""
        try:
            return self.dataset[which]
        except Stopped:
            raise
        except (StopIteration, SystemExit) as error:
            raise ContentError(
                f"the dataset raised {type(error).__name__} for {_in_words(which)}, which would end the training as if "
                "it had all its batches; each sample must be returned, or raise an error of its own"
            ) from error


class BatchLoader(DataLoader[Batch]):
    """PyTorch's DataLoader of whole batches, with workers that stay, pinned memory on a GPU, and errors in one line.

    A worker decodes and prepares batches in a process of its own. The batches are the same, and in the same order, for
    every number of workers.

    Args:
        dataset: maps an element of the sampler to a batch.
        sampler: what the batches are made of, such as ranges of positions.
        num_workers: the number of processes; 0 prepares batches in the training process.
        pin_memory: whether batches are put into memory from which a GPU copies faster; not those made on a GPU.

    Raises:
        ContentError: while it is iterated, content was unreadable, and the message names the file; or the code of the
            dataset raised StopIteration or exited, and the message names the samples.
        UserError: while it is iterated, a worker has ended, or prepared no batch in ten minutes.
    """

    def __init__(
        self, dataset: Dataset[Batch], sampler: Iterable[Any], num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        super().__init__(
            _Guarded(dataset),
            sampler=sampler,
            batch_size=None,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            timeout=PATIENCE if num_workers else 0,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        with errors_of_workers():
            yield from map(_batch, super().__iter__())


def _in_words(which: Any) -> str:
    """Return which samples a batch is made of: positions of the training stream, or rows of the held-out samples."""
    if isinstance(which, range):
        return f"positions {which.start} to {which.stop - 1} of the training stream"
    if isinstance(which, Tensor):
        return f"held-out samples {int(which.min())} to {int(which.max())}"
    return f"number {which}"


def _batch(batch: Batch | Failure) -> Batch:
    if isinstance(batch, Failure):
        raise ContentError(batch.message)
    return batch


@contextmanager
def errors_of_workers() -> Iterator[None]:
    """Turn PyTorch's errors of workers that were killed or hang into a one-line error, within a context.

    PyTorch raises that of a killed worker wherever the program is, so the whole training is within such a context.

    Raises:
        UserError: a worker has ended, or prepared no batch in ten minutes.
    """
    try:
        yield
    except RuntimeError as error:
        text = line_of(error)
        if found := DEAD.search(text):
            how = f" ({found['signal']})" if found["signal"] else ""
            raise UserError(
                f"a process that prepares batches has ended{how}, mostly since memory was short; lower "
                "dataset.num_workers, or dataset.shuffle_buffer of streamed data, and resume the run"
            ) from error
        if "DataLoader timed out" in text:
            raise UserError(
                f"a process that prepares batches gave none in {PATIENCE} s; is the disk or the network of the data "
                "reachable? dataset.num_workers=0 reads without processes"
            ) from error
        raise
