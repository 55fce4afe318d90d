"""The logger of Weights & Biases (W&B)."""

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from torch import Tensor

from diffsweep import pictures
from diffsweep.callbacks import RunLogger
from diffsweep.datasets import Batch
from diffsweep.metric_table import metric
from diffsweep.runs.description import Description
from diffsweep.runs.metrics_file import read_history

if TYPE_CHECKING:
    from wandb import Run

SAMPLES = 64  # rows of the table of samples at most


class WandbRun(WandbLogger, RunLogger):
    """The logger of a W&B run, with the best values of its metrics beside the last ones.

    W&B's summary has the last value of each metric under its name (``val/loss``), and its best value, as the table of
    metrics defines it, under ``best/`` and the name (``best/val/loss``).

    Args:
        run: the W&B run.
        artifacts: whether checkpoints are recorded.
        earlier: metrics that the run has logged before it was resumed, from which the best values start.
    """

    def __init__(self, run: "Run", artifacts: bool = False, earlier: Sequence[Mapping[str, float]] = ()) -> None:
        super().__init__(experiment=run)
        self._run, self._artifacts = run, artifacts
        self._best: dict[str, float] = {}
        for metrics in earlier:
            self._improved(metrics)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        if improved := self._improved(metrics):
            self.log_facts({f"best/{name}": value for name, value in improved.items()})

    def _improved(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics that are better than any before, and keep them."""
        improved = {}
        for name in metrics:
            known = metric(name.removeprefix("eval/"))
            if not known.ranks or math.isnan(value := float(metrics[name])):
                continue
            if name not in self._best or known.shortfall(value) < known.shortfall(self._best[name]):
                self._best[name] = improved[name] = value
        return improved

    def log_facts(self, facts: Mapping[str, float | str]) -> None:
        self._run.summary.update(dict(facts))

    def log_picture(self, name: str, path: Path, step: int, caption: str) -> None:
        if path.suffix == ".png":
            self.log_image(name, [str(path)], step, caption=[caption])
        else:
            self.log_video(name, [str(path)], step, caption=[caption], format=[path.suffix.lstrip(".")])

    def log_samples(self, x: Tensor, request: Batch, step: int) -> None:
        import wandb

        words = {name: request[name] for name in ("label", "caption") if name in request}
        table = wandb.Table(columns=["index", *words, "sample"])
        with tempfile.TemporaryDirectory() as folder:
            for i in range(min(len(x), SAMPLES)):
                shown = {name: column[i] for name, column in words.items()}
                values = [value.item() if isinstance(value, Tensor) else value for value in shown.values()]
                file = pictures.save_shown(pictures.grid, [x[i : i + 1]], Path(folder) / str(i))[0]
                media = wandb.Image if file.suffix == ".png" else wandb.Video
                table.add_data(i, *values, media(str(file)))
            self.log_metrics({"samples_table": table}, step)  # type: ignore[dict-item]

    def log_checkpoints(self, files: Sequence[Path]) -> None:
        if self._artifacts:
            import wandb

            artifact = wandb.Artifact(self._run.id, type="model", metadata={"name": self._run.name})
            for file in files:
                artifact.add_file(str(file))
            self._run.log_artifact(artifact)


def start_wandb(cfg: DictConfig, description: Description) -> WandbRun:
    """Start a W&B run and return its logger; a run that is resumed goes on in its W&B run, which has the same id.

    Args:
        cfg: the configuration of the command.
        description: the name, group, tags and configuration that W&B shows.
    """
    import wandb

    directory = description.directory
    directory.mkdir(parents=True, exist_ok=True)
    os.environ["WANDB_DATA_DIR"] = str(directory / "wandb")  # staged media stay inside the run
    run = wandb.init(
        project=cfg.logger.project,
        entity=cfg.logger.entity,
        mode=cfg.logger.mode,
        dir=str(directory),
        id=description.id,
        name=description.name,
        group=description.group,
        job_type=description.job_type,
        tags=description.tags,
        resume="allow",
        config=description.config,
        settings=wandb.Settings(silent=True, console="off"),
    )
    rows = read_history(directory / "metrics.csv").values()
    earlier = [{name: float(value) for name, value in row.items()} for row in rows]
    return WandbRun(run, cfg.logger.artifacts, earlier)


def finish_wandb(exit_code: int) -> None:
    """End the W&B run of this process, if any; an exit code other than 0 marks it as failed."""
    import sys

    if "wandb" in sys.modules:
        import wandb

        if wandb.run is not None:
            wandb.finish(exit_code=exit_code)
