"""What the loggers of a run record beside metrics: pictures, samples, results and facts of the whole run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger
from torch import Tensor

from diffsweep.datasets import Batch


class RunLogger(Logger):
    """A Lightning logger that can record more of a run than metrics; subclasses override what they can record.

    By default nothing but metrics is recorded.
    """

    def log_facts(self, facts: Mapping[str, float | str]) -> None:
        """Record facts of the whole run by name, such as the number of parameters."""

    def log_picture(self, name: str, path: Path, step: int, caption: str) -> None:
        """Record the file of a picture.

        Args:
            name: the name under which pictures of its kind are shown.
            path: the file, a PNG or GIF.
            step: the optimizer steps taken.
            caption: what the picture shows.
        """

    def log_samples(self, x: Tensor, request: Batch, step: int) -> None:
        """Record samples one by one, in a table with what each was to show.

        Args:
            x: images (N, C, H, W) or clips (N, C, F, H, W) in [-1, 1].
            request: values of N rows by name, such as ``label``; empty for a model without conditions.
            step: the optimizer steps taken.
        """

    def log_checkpoints(self, files: Sequence[Path]) -> None:
        """Record the checkpoints of the finished run, and other files that are needed to use them."""

    def log_results(self, numbers: Mapping[str, float], step: int) -> None:
        """Record the numbers of an evaluation, as metrics ``eval/NAME``.

        Args:
            numbers: the numbers by name, such as ``fid``.
            step: the optimizer steps taken.
        """
        self.log_metrics({f"eval/{name}": value for name, value in numbers.items()}, step)


def log_picture(loggers: Sequence[Logger], name: str, path: Path, step: int, caption: str = "") -> None:
    """Pass the file of a picture to the loggers of a run; those that record no pictures are skipped.

    Args:
        loggers: the loggers.
        name: the name under which it is logged.
        path: the file, a PNG or GIF.
        step: the optimizer steps taken.
        caption: what it shows.
    """
    for logger in loggers:
        if isinstance(logger, RunLogger):
            logger.log_picture(name, path, step, caption)
