"""The loss on held-out data by noise level, at each validation of a training."""

import csv
import importlib.util
import io
import math
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from diffsweep.callbacks.run_logger import log_picture
from diffsweep.capabilities import Part
from diffsweep.files import write_text
from diffsweep.layers import distributed
from diffsweep.plots import plot_loss_by_time

NAME = "loss_by_t"
COLUMNS = ("step", "t_from", "t_to", "loss", "loss_se", "samples")


class LossByTime(Callback, Part):
    """Write the mean held-out loss in equal intervals of t after each validation, and a picture of it after training.

    The file ``loss_by_t.csv`` has a row for each validation and interval: the step, the ends of the interval (the left
    one is open, but for t = 0), the mean loss in it, the standard error of the mean, and the number of its samples.
    ``loss_by_t.png``, if matplotlib is installed, has curves of some validations. Every validation has the same times
    and noise, so that curves compare; objectives have losses of different scales. Models whose times are all 0, and
    those without times, are left out.

    Args:
        folder: the folder of the two files.
        intervals: number of intervals of [0, 1].

    Raises:
        ValueError: ``intervals`` is below 1.
    """

    def __init__(self, folder: str, intervals: int = 20) -> None:
        if intervals < 1:
            raise ValueError(f"callbacks.loss_by_t.intervals must be at least 1, not {intervals}")
        self.path, self.intervals = Path(folder) / f"{NAME}.csv", intervals

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        points = getattr(pl_module, "validated", [])
        if trainer.sanity_checking or not points or not pl_module.by_quarter:
            return
        t, losses = (torch.cat(part) for part in zip(*points, strict=True))
        sums = sums_by_interval(losses, t, self.intervals)
        if distributed():
            sums = pl_module.all_gather(sums).sum(0)
        if trainer.is_global_zero:
            self._write(trainer.global_step, sums.tolist())

    def _write(self, step: int, sums: list[list[float]]) -> None:
        rows = [row for row in read_rows(self.path) if row["step"] < step]  # a resumed run repeats some
        for i, (count, total, squares) in enumerate(zip(*sums, strict=True)):
            if count:
                mean = total / count
                variance = max(squares / count - mean**2, 0) * count / (count - 1) if count > 1 else math.nan
                ends = (i / self.intervals, (i + 1) / self.intervals)
                rows.append(dict(zip(COLUMNS, (step, *ends, mean, math.sqrt(variance / count), count), strict=True)))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([f"{row[name]:.8g}" for name in COLUMNS] for row in rows)
        write_text(self.path, text.getvalue())

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        rows = read_rows(self.path) if trainer.is_global_zero else []
        if rows and importlib.util.find_spec("matplotlib") is not None:
            picture = self.path.with_suffix(".png")
            plot_loss_by_time(rows).savefig(picture, dpi=120)
            caption = "held-out loss by noise level, after some of the validations"
            log_picture(trainer.loggers, NAME, picture, trainer.global_step, caption)


def sums_by_interval(losses: Tensor, t: Tensor, intervals: int) -> Tensor:
    """Return the counts, the sums and the sums of squares of losses in equal intervals of t, float64, (3, intervals).

    Args:
        losses: (B,).
        t: the time of each loss in [0, 1], (B,). A time between two intervals counts to the lower one.
        intervals: number of intervals.
    """
    losses = losses.double()
    number = ((t.double() * intervals - 1e-6).ceil().long() - 1).clamp(0, intervals - 1)  # times may be float32
    parts = torch.stack([torch.ones_like(losses), losses, losses.square()])
    return torch.zeros(3, intervals, dtype=torch.float64, device=losses.device).index_add_(1, number, parts)


def read_rows(path: Path) -> list[dict[str, float]]:
    """Return the rows of a file ``loss_by_t.csv`` as numbers by column; an empty list if it does not exist."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
