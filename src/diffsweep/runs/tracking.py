"""The loggers of a run: ``metrics.csv`` always, and W&B and TensorBoard as the group ``logger`` chooses."""

import functools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffsweep import pictures, shell
from diffsweep.callbacks import RunLogger
from diffsweep.callbacks.shards import ENDING
from diffsweep.configuration.saved import CONFIG
from diffsweep.datasets import ImageData
from diffsweep.runs.cost import network_cost, peak_memory
from diffsweep.runs.description import describe
from diffsweep.runs.metrics_file import MetricsFile
from diffsweep.runs.tensorboard_run import FOLDER, TensorBoardRun
from diffsweep.runs.wandb_run import finish_wandb, wandb_logger


def loggers(cfg: DictConfig) -> list[RunLogger]:
    """Return the loggers of a training run: :class:`MetricsFile`, and those that ``logger`` chooses.

    W&B is left out if ``logger.mode`` is ``disabled``.

    Args:
        cfg: the run's configuration.
    """
    return [MetricsFile(Path(cfg.paths.run_dir) / "metrics.csv"), *used_by(cfg, "train")]


def used_by(cfg: DictConfig, job_type: str) -> list[RunLogger]:
    """Return the loggers that the group ``logger`` chooses: W&B, TensorBoard, both or none.

    W&B starts when something is first logged.

    Args:
        cfg: the configuration of a command.
        job_type: the command: ``train``, ``evaluate`` or ``sample``.
    """
    if cfg.logger.mode == "disabled" and not cfg.logger.tensorboard:
        return []
    kept, found = cfg.copy(), list[RunLogger]()  # W&B shows the configuration as it is now
    described = functools.cache(lambda: describe(kept, job_type))
    if cfg.logger.mode != "disabled":
        directory = Path(cfg.paths.run_dir if job_type == "train" else cfg.output)
        found.append(wandb_logger(kept, directory, described))
    if cfg.logger.tensorboard:
        found.append(TensorBoardRun(described()))
    return found


@contextmanager
def finishing() -> Iterator[None]:
    """End the W&B run of this process, if any, at the end of the context, with the exit code of the process."""
    exit_code = 1
    try:
        yield
        exit_code = 0
    except SystemExit as stop:
        exit_code = stop.code if isinstance(stop.code, int) else 1
        raise
    finally:
        finish_wandb(exit_code)


def log_beginning(track: Sequence[RunLogger], cfg: DictConfig, data: ImageData) -> None:
    """Log what is known at the beginning of a command: the size and cost of the network, and the data.

    Args:
        track: the loggers.
        cfg: the configuration of the command.
        data: the dataset.
    """
    if track:
        cost = network_cost(cfg)
        for logger in track:
            logger.log_facts({"parameters": cost.parameters, "gmac": cost.gmac, "data_fingerprint": data.fingerprint})


def log_end(track: Sequence[RunLogger], folder: Path) -> None:
    """Log what is known at the end of a command, and write what loggers have kept back.

    It is the most memory that was used, and the ids of the protocols that numbers were measured under.

    Args:
        track: the loggers.
        folder: the folder with ``metrics.json``, if numbers were measured.
    """
    facts: dict[str, Any] = {"peak_memory_gib": round(peak_memory(), 4)}
    if (folder / "metrics.json").is_file():
        content = json.loads((folder / "metrics.json").read_text())
        facts |= {name: value for name, value in content.items() if name.endswith("protocol_id")}
    for logger in track:
        logger.log_facts(facts)
        logger.save()


def log_pictures(track: Sequence[RunLogger], folder: Path, step: int, caption: str) -> None:
    """Log the pictures of a folder, each under the name of its file; of one in several pages, log the first page.

    Args:
        track: the loggers.
        folder: the folder.
        step: the optimizer steps of the model.
        caption: what the pictures show.
    """
    found = [path for path in sorted(folder.glob("*")) if path.suffix in (".png", ".gif")]  # an MP4 has a GIF beside it
    for path, _ in pictures.listed(found):
        for logger in track:
            logger.log_picture(pictures.picture_name(path), path, step, caption)


def log_checkpoints(track: Sequence[RunLogger], directory: Path, checkpoints: Path) -> None:
    """Log the checkpoints of a finished run with its configuration and numbers, as far as loggers record them.

    Args:
        track: the loggers.
        directory: the run's directory.
        checkpoints: the folder of its checkpoints.
    """
    saved = sorted([*checkpoints.glob("*.ckpt"), *checkpoints.glob(f"*{ENDING}")])
    files = [*saved, directory / CONFIG, directory / "metrics.json"]
    for logger in track:
        logger.log_checkpoints([file for file in files if file.is_file()])


def places(cfg: DictConfig, directory: Path) -> list[tuple[str, str]]:
    """Return rows of a name and a command by which a user looks at what the loggers have written.

    Args:
        cfg: the configuration of the command.
        directory: the folder of its files.
    """
    found = []
    if cfg.logger.mode == "offline":
        found.append(("W&B", f"wandb sync {shell.shown(directory / 'wandb')}/offline-run-*   (uploads this run)"))
    if cfg.logger.tensorboard:
        found.append(("board", f"tensorboard --logdir {shell.shown(directory / FOLDER)}"))
    return found
