r"""Several averages of the weights with power-function profiles, kept in snapshots, and others made of them afterwards.

After an update at step t, whose last one was at step s, :math:`\hat\theta \leftarrow \beta \hat\theta + (1 - \beta)
\theta` with :math:`\beta = (s / t)^{\gamma + 1}`: see :mod:`~diffsweep.callbacks.power_profiles` and Karras et al.
2024, "Analyzing and Improving the Training Dynamics of Diffusion Models".
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from diffsweep import shell
from diffsweep.callbacks.ema import move, trainable, wide_copies
from diffsweep.callbacks.power_profiles import Profile, decay, gamma_of, least_squares
from diffsweep.errors import UserError
from diffsweep.phases import AVERAGING, counted_as
from diffsweep.tensor_files import read_tensors, write_tensors

FOLDER = "ema"  # in the run's directory
KEY = "averages"  # of a checkpoint
FILE = re.compile(r"step_(\d+)_sigma_([\de.-]+)\.pt")
LARGE = 0.05  # a relative error of a profile that is warned of
TURNED_ON = "callbacks=post_hoc"  # what a run is trained with to have snapshots


class PowerAverages(Callback):
    r"""Average the weights with profiles of several relative widths, and keep snapshots of these averages.

    From the snapshots ``evaluate.py`` and ``sample.py`` make the average of any other width (``ema=0.07``). Validation,
    samples and checkpoints go on with the average of :class:`~diffsweep.callbacks.ema.EMA`; a checkpoint has the
    averages too, so that a resumed run keeps the same snapshots. Each average takes as much memory as the weights.

    The weights at each ``every``-th step stand for all since the one before. Snapshots are kept of each
    ``snapshot_every``-th step; where these would be more than ``max_snapshots``, of each second of them, then of each
    fourth, and so on, whatever the length of the training is; and of its last step.

    Args:
        folder: where the snapshots go, a file for each step and width.
        widths: the relative widths, each above 0 and at most 0.2886.
        every: optimizer steps from one update to the next.
        snapshot_every: optimizer steps from one snapshot to the next at first, a multiple of ``every``.
        max_snapshots: the most steps of which snapshots are kept, at least 2.
        float16: whether snapshots are kept in half precision, which takes half the space.

    Raises:
        ValueError: a width is outside of its interval or given twice, or another number is too small.
    """

    def __init__(
        self,
        folder: str,
        widths: Sequence[float] = (0.05, 0.1),
        every: int = 1,
        snapshot_every: int = 50,
        max_snapshots: int = 64,
        float16: bool = False,
    ) -> None:
        if not widths or len(set(widths)) < len(widths):
            raise ValueError(f"callbacks.averages.widths needs one width or more, each once, not {list(widths)}")
        try:
            self._gammas = [gamma_of(width) for width in widths]
        except ValueError as error:
            raise ValueError(f"callbacks.averages.widths: {error}") from None
        if every < 1 or snapshot_every < 1 or snapshot_every % every:
            raise ValueError(
                f"callbacks.averages.snapshot_every must be a multiple of callbacks.averages.every, at least 1, not "
                f"{snapshot_every} and {every}"
            )
        if max_snapshots < 2:
            raise ValueError(f"callbacks.averages.max_snapshots must be at least 2, not {max_snapshots}")
        self.folder, self.widths, self.every = Path(folder), tuple(widths), every
        self.snapshot_every, self.max_snapshots, self.float16 = snapshot_every, max_snapshots, float16
        self.step = self.updated = 0  # optimizer steps so far, and at the last update
        self.averages: list[dict[str, Tensor]] = []  # by width
        self._tracked: list[Tensor] = []

    @torch.no_grad()
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        current = trainable(pl_module)
        self._tracked = list(current.values())
        saved = self.averages or [current for _ in self.widths]
        self.averages = [wide_copies(current, average) for average in saved]
        if trainer.is_global_zero:
            for file in snapshots(self.folder):
                if file.profile.step > self.step:  # of a training that was killed, or begins again
                    file.path.unlink()
            self._announce(trainer.max_steps)

    def _announce(self, max_steps: int) -> None:
        """Print the space on the disk that the snapshots will take at most."""
        count = min(self.max_snapshots, -(-max_steps // self.snapshot_every)) if max_steps > 0 else self.max_snapshots
        values = sum(weight.numel() * (2 if self.float16 else 4) for weight in self._tracked)
        size = len(self.widths) * values
        print(
            f"averages of widths {', '.join(f'{width:g}' for width in self.widths)}: at most {count} snapshots in "
            f"{shell.shown(self.folder)}, of {size:,} bytes of weights each, {count * size:,} in all",
            flush=True,
        )

    @torch.no_grad()
    @counted_as(AVERAGING)
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:  # gradients are still accumulating
            return
        self.step = trainer.global_step
        if self.step % self.every:
            return
        for average, share in zip(self.averages, self._shares(), strict=True):
            move(list(average.values()), self._tracked, share)
        self.updated = self.step
        if self.step % self._stride() == 0 and trainer.is_global_zero:
            self._keep(self.averages)

    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep a snapshot of the last step; the averages stay as they are, for a training that goes on."""
        if self.step % self._stride() and trainer.is_global_zero:
            at_end = [{name: mean.clone() for name, mean in average.items()} for average in self.averages]
            if self.step > self.updated:
                for average, share in zip(at_end, self._shares(), strict=True):
                    move(list(average.values()), self._tracked, share)
            self._keep(at_end)

    def _shares(self) -> list[float]:
        """Return the share 1 - beta of the current weights in the update of each average at this step."""
        return [1 - decay(gamma, self.updated, self.step) for gamma in self._gammas]

    def _stride(self) -> int:
        """Return the steps from one snapshot to the next at this step."""
        stride = self.snapshot_every
        while -(-self.step // stride) > self.max_snapshots:
            stride *= 2
        return stride

    def _keep(self, averages: Sequence[dict[str, Tensor]]) -> None:
        """Write a snapshot of this step, and delete those that are too many."""
        for width, average in zip(self.widths, averages, strict=True):
            weights = {name: weight.half() if self.float16 else weight for name, weight in average.items()}
            path = self.folder / f"step_{self.step:08}_sigma_{width}.pt"
            write_tensors(path, {"step": self.step, "width": width, "weights": weights}, self.step)
        stride = self._stride()
        for file in snapshots(self.folder):
            if file.profile.step % stride and file.profile.step != self.step:
                file.path.unlink()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {
            "step": self.step,
            "updated": self.updated,
            "widths": list(self.widths),
            "weights": self.averages,
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint[KEY]
        if tuple(saved["widths"]) != self.widths:
            raise UserError(
                f"callbacks.averages.widths cannot change when a run is resumed, from {saved['widths']} to "
                f"{list(self.widths)}: an average begins with the training"
            )
        self.step, self.updated, self.averages = saved["step"], saved["updated"], saved["weights"]


class Snapshot(NamedTuple):
    """The file of an average at a step.

    Attributes:
        path: the file.
        profile: the step and the relative width.
    """

    path: Path
    profile: Profile


def snapshots(folder: Path) -> list[Snapshot]:
    """Return the snapshots in a folder, by steps and widths; none if it does not exist."""
    found = [(path, FILE.fullmatch(path.name)) for path in folder.glob("*.pt")]
    every = [Snapshot(path, Profile(int(match[1]), float(match[2]))) for path, match in found if match]
    return sorted(every, key=lambda snapshot: snapshot.profile)


class SumOfSnapshots(NamedTuple):
    """An average of another width, as a sum of snapshots.

    Attributes:
        profile: the step, that of the last snapshot, and the relative width.
        kept: the snapshots.
        factors: of each in the sum.
        error: the relative error of the profile of the sum, which is known without any weight.
    """

    profile: Profile
    kept: Sequence[Snapshot]
    factors: Sequence[float]
    error: float

    def __str__(self) -> str:
        return (
            f"ema={self.profile.width:g}: the average at step {self.profile.step:,}, of {len(self.kept)} snapshots; "
            f"relative error of its profile {self.error:.2%}"
        )

    @property
    def warning(self) -> str | None:
        """Return a warning, in one line, if the error is above :data:`LARGE`; None if it is not."""
        if self.error <= LARGE:
            return None
        widths = " or ".join(f"{width:g}" for width in sorted({snapshot.profile.width for snapshot in self.kept}))
        return (
            f"ema={self.profile.width:g}: {len(self.kept)} snapshots are too few for this width, and the relative "
            f"error of its profile is {100 * self.error:.0f} %; take one near {widths}, or train with a smaller "
            "callbacks.averages.snapshot_every"
        )

    def weights(self) -> dict[str, Tensor]:
        """Return the average, by the names of the weights, summed in float64; one snapshot at a time is in memory.

        Raises:
            UserError: a snapshot is damaged or does not exist any more.
        """
        total: dict[str, Tensor] = {}
        for snapshot, factor in zip(self.kept, self.factors, strict=True):
            if factor == 0:
                continue
            for name, weight in read_tensors(snapshot.path)["weights"].items():
                part = weight.double().mul_(factor)
                total[name] = total[name].add_(part) if name in total else part
        return {name: weight.float() for name, weight in total.items()}


def reconstruction(directory: Path, width: float, step: int | None = None) -> SumOfSnapshots:
    """Return how the average of a relative width is made of the snapshots of a run, without reading their weights.

    Args:
        directory: the run's directory.
        width: the relative width.
        step: the last step whose snapshots are used; None for the last of the run.

    Raises:
        UserError: the width is outside of its interval, or the run has no snapshots up to that step.
    """
    try:
        gamma_of(width)
    except ValueError as error:
        raise UserError(f"ema={width:g}: {error}") from None
    kept = [one for one in snapshots(directory / FOLDER) if step is None or one.profile.step <= step]
    if not kept:
        until = "" if step is None else f" up to step {step:,}"
        raise UserError(
            f"ema={width:g} is made of snapshots of averages of the weights, and {shell.shown(directory)} has kept "
            f"none{until}; train with {TURNED_ON}"
        )
    wanted = Profile(kept[-1].profile.step, width)
    factors, left = least_squares([one.profile for one in kept], wanted)
    return SumOfSnapshots(wanted, kept, factors.tolist(), left)
