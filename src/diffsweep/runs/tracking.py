"""The loggers of a run: metrics.csv always, and W&B unless disabled."""

import csv
import io
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from diffsweep.files import write_text
from diffsweep.metric_table import HIGHER, LOWER, named

LOWER_IS_BETTER, HIGHER_IS_BETTER = named(LOWER, prefix="eval/"), named(HIGHER, prefix="eval/")


class MetricsFile(Logger):
    """A Lightning logger that writes ``metrics.csv``, with a row for each logged step and a column for each metric.

    A resumed run continues the file; old rows after the first step that it logs are removed. (Lightning's CSVLogger
    deletes the file of an earlier fit in the same folder.)

    Args:
        path: the path of the file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._rows: dict[int, dict[str, str]] | None = None

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Write nothing: the configuration has a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = int(step or 0)
        if self._rows is None:  # a resumed run replaces the rows after its first step
            self._rows = {k: row for k, row in self._read().items() if k <= step}
        row = self._rows.setdefault(step, {})
        row.update({name: f"{float(value):.8g}" for name, value in metrics.items() if name != "epoch"})

    def _read(self) -> dict[int, dict[str, str]]:
        if not self.path.exists():
            return {}
        with self.path.open(newline="") as file:
            return {int(row.pop("step")): {k: v for k, v in row.items() if v} for row in csv.DictReader(file)}

    @rank_zero_only
    def save(self) -> None:
        if not self._rows:
            return
        columns = sorted({name for row in self._rows.values() for name in row})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["step", *columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"step": step, **self._rows[step]} for step in sorted(self._rows))
        write_text(self.path, text.getvalue())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def loggers(cfg: DictConfig) -> list[Logger]:
    """Return the Lightning loggers of a run: :class:`MetricsFile`, and W&B unless ``logger.mode`` is ``disabled``."""
    found: list[Logger] = [MetricsFile(Path(cfg.paths.run_dir) / "metrics.csv")]
    if cfg.logger.mode != "disabled":
        found.append(wandb_logger(cfg))
    return found


def wandb_logger(cfg: DictConfig) -> WandbLogger:
    """Start a W&B run and return its Lightning logger.

    The W&B id is made from the run's directory, so that resuming the run continues it, with ``logger.mode=online``. The
    runs of a sweep share a group. W&B gets the unresolved configuration, since values from the environment may be
    secret.

    Args:
        cfg: the run's configuration.
    """
    import wandb

    directory = Path(cfg.paths.run_dir)
    os.environ["WANDB_DATA_DIR"] = str(directory / "wandb")  # staged media stay inside the run
    run = wandb.init(
        project=cfg.logger.project,
        entity=cfg.logger.entity,
        mode=cfg.logger.mode,
        dir=str(directory),
        id=run_id(directory),
        name=directory.name,
        group=cfg.sweep,
        resume="allow" if cfg.logger.mode == "online" else None,
        config={**cfg.choices, "seed": cfg.seed, "config": OmegaConf.to_container(cfg, resolve=False)},
        settings=wandb.Settings(silent=True, console="off"),
    )
    for names, best in ((LOWER_IS_BETTER, "min"), (HIGHER_IS_BETTER, "max")):
        for name in names:
            run.define_metric(name, step_metric="trainer/global_step", summary=best)
    return WandbLogger(experiment=run)


def run_id(directory: Path) -> str:
    """Return the W&B id of a run, the last two names of its directory, since ids must be unique in a project.

    Hyphens join the names and replace underscores; at most the last 64 characters are taken. A run that an agent of a
    W&B sweep has started has the id that the agent gave it, by which the sweep finds its results.
    """
    if os.environ.get("WANDB_SWEEP_ID") and (given := os.environ.get("WANDB_RUN_ID")):
        return given
    return "-".join(directory.parts[-2:]).replace("_", "-")[-64:]


def finish_wandb(exit_code: int) -> None:
    """End the W&B run of this process, if any; an exit code other than 0 marks it as failed."""
    import sys

    if "wandb" in sys.modules:
        import wandb

        if wandb.run is not None:
            wandb.finish(exit_code=exit_code)
