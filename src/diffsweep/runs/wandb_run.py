"""The logger of Weights & Biases (W&B), whose faults never end a training.

W&B is imported, and its run starts, when something is first logged: that takes seconds, which the first optimizer step
need not wait for. Without network or key a run is recorded offline. After any other fault of W&B the logger is silent.
Either prints one warning, and ``metrics.csv`` and the other files of the run are complete.
"""

import functools
import math
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from torch import Tensor

from diffsweep import pictures
from diffsweep.callbacks import RunLogger
from diffsweep.comparison.history import rows
from diffsweep.datasets import Batch
from diffsweep.files import write_text
from diffsweep.metric_table import metric
from diffsweep.phases import LOGGING, phase
from diffsweep.runs.description import LONGEST_ID, Description
from diffsweep.shell import one_line, shown

if TYPE_CHECKING:
    from wandb import Run

SAMPLES = 64  # rows of the table of samples at most
ID = "run_id"  # the file in the folder wandb of a run with its W&B id
STOPPED = 128  # and above: exit codes of processes that a signal has ended
WAITS = {"init_timeout": 30, "login_timeout": 60, "finish_timeout": 300}  # seconds, of the settings of W&B


class NotStartedError(Exception):
    """W&B records nothing of a run, as a warning has stated."""


def _warn(what: str) -> None:
    print(f"warning: {what}", file=sys.stderr, flush=True)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(' '.join(str(error).split()))}"


def _tolerant(method: Callable[..., None]) -> Callable[..., None]:
    """Return a method of the logger whose first error is a warning, after which the logger does nothing."""

    @functools.wraps(method)
    def tolerant(self: "WandbRun", *arguments: Any, **keywords: Any) -> None:
        if self.failed:
            return
        try:
            with phase(LOGGING):
                method(self, *arguments, **keywords)
        except NotStartedError:
            self.failed = True
        except Exception as error:  # W&B raises errors of the network, the disk and its own process
            self.failed = True
            _warn(f"W&B records no more of this run ({_reason(error)}); training goes on, and metrics.csv is complete")

    return tolerant


class WandbRun(WandbLogger, RunLogger):
    """The logger of a W&B run, with the best values of its metrics beside the last ones.

    W&B's summary has the last value of each metric under its name (``val/loss``), and its best value, as the table of
    metrics defines it, under ``best/`` and the name (``best/val/loss``).

    Args:
        start: a function that starts the W&B run and returns it, or raises :class:`NotStartedError`. It is called when
            metrics, pictures or checkpoints are first logged; facts that come before are kept until then.
        artifacts: whether checkpoints are recorded.
        earlier: the metrics of each log of the run before it was resumed, from which the best values start.

    Attributes:
        failed: whether W&B has raised an error, after which nothing is logged.
    """

    def __init__(
        self, start: Callable[[], "Run"], artifacts: bool = False, earlier: Iterable[Mapping[str, float]] = ()
    ) -> None:
        super().__init__()
        self.failed = False
        self._start, self._artifacts = start, artifacts
        self._facts: dict[str, float | str] = {}
        self._best: dict[str, float] = {}
        for metrics in earlier:
            self._improved(metrics)

    @property
    def experiment(self) -> "Run":
        """The W&B run; an AttributeError before it has started, since Lightning looks for it before the first step."""
        if self._experiment is None:
            raise AttributeError("the W&B run starts when something is logged")
        return self._experiment  # type: ignore[return-value]

    @_tolerant
    def begin(self) -> None:
        """Start the W&B run, if it has not started."""
        self._begun()

    def _begun(self) -> "Run":
        if self._experiment is None:
            self._experiment = self._start()
            self._experiment.summary.update(self._facts)
        return self._experiment  # type: ignore[return-value]

    @rank_zero_only
    @_tolerant
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._begun()
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

    @_tolerant
    def log_facts(self, facts: Mapping[str, float | str]) -> None:
        if self._experiment is None:
            self._facts.update(facts)
        else:
            self._experiment.summary.update(dict(facts))

    @_tolerant
    def log_picture(self, name: str, path: Path, step: int, caption: str) -> None:
        if path.suffix == ".png":
            self.log_image(name, [str(path)], step, caption=[caption])
        else:
            self.log_video(name, [str(path)], step, caption=[caption], format=[path.suffix.lstrip(".")])

    @_tolerant
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

    @_tolerant
    def save(self) -> None:
        super().save()

    @rank_zero_only
    @_tolerant
    def finalize(self, status: str) -> None:
        super().finalize(status)

    @_tolerant
    def log_checkpoints(self, files: Sequence[Path]) -> None:
        if self._artifacts:
            import wandb

            run = self._begun()
            artifact = wandb.Artifact(run.id, type="model", metadata={"name": run.name})
            for file in files:
                artifact.add_file(str(file))
            run.log_artifact(artifact)


_waiting: list[WandbRun] = []  # loggers of this process whose W&B run may not have been started yet


def wandb_logger(cfg: DictConfig, directory: Path, described: Callable[[], Description]) -> WandbRun:
    """Return the logger of a W&B run, which starts when something is logged, or at the latest when the command ends.

    Args:
        cfg: the configuration of the command.
        directory: the folder of its files.
        described: a function that returns the name, group, tags and configuration that W&B shows.
    """
    logged = rows(directory / "metrics.csv")
    earlier = ({name: float(value) for name, value in values.items()} for _, values in logged)
    logger = WandbRun(lambda: _start_or_go_offline(cfg, described()), cfg.logger.artifacts, earlier)
    _waiting.append(logger)
    return logger


def _start_or_go_offline(cfg: DictConfig, description: Description) -> "Run":
    """Start and return a W&B run, or go on with that of a resumed run; without network or key, offline.

    Raises:
        NotStartedError: W&B cannot start at all; one warning is printed.
    """
    try:
        identity = wandb_id(description, cfg.get("resume_from") is not None)
        return _start(cfg, description, identity, cfg.logger.mode)
    except Exception as error:  # of the network, the account, the disk, or W&B's own process
        reason = _reason(error)
        try:
            import wandb

            wandb.teardown()  # the process of W&B keeps the id in use
            run = _start(cfg, description, identity, "offline")
        except Exception as second:
            _warn(f"W&B records nothing of this run ({_reason(second)}); metrics.csv has its metrics")
            raise NotStartedError from second
        sync = f"wandb sync {shown(description.directory / 'wandb')}/offline-run-*"
        _warn(f"W&B cannot be reached ({reason}); this run is recorded offline, upload it later: {sync}")
        return run


def wandb_id(description: Description, resumed: bool) -> str:
    """Return the W&B id of a run: that of a resumed run, or a new one, which no other run of the project has.

    W&B merges runs of equal ids, also where directories on two machines have the same name. So the id of a new run ends
    with random digits, and the file ``wandb/run_id`` keeps it. The id that an agent of a W&B sweep gives stays.

    Args:
        description: of the run, with the beginning of the id.
        resumed: whether the run goes on.
    """
    kept = description.directory / "wandb" / ID
    if resumed and kept.is_file():
        return kept.read_text(encoding="utf-8").strip()
    if (resumed and kept.parent.is_dir()) or os.environ.get("WANDB_SWEEP_ID"):  # earlier releases kept no ids
        return description.id
    digits = uuid.uuid4().hex[:8]
    identity = f"{description.id[: LONGEST_ID - len(digits) - 1]}-{digits}"
    write_text(kept, identity + "\n")
    return identity


def _settings() -> dict[str, Any]:
    """Return the settings of W&B: its waits end, unless variables such as WANDB_INIT_TIMEOUT state others."""
    import wandb

    known = wandb.Settings.model_fields
    waits = {name: wait for name, wait in WAITS.items() if name in known and f"WANDB_{name.upper()}" not in os.environ}
    return {"silent": True, "console": "off", **waits}


def _start(cfg: DictConfig, description: Description, identity: str, mode: str) -> "Run":
    """Start a W&B run."""
    import wandb

    directory = description.directory
    directory.mkdir(parents=True, exist_ok=True)
    os.environ["WANDB_DATA_DIR"] = str(directory / "wandb")  # staged media stay inside the run
    return wandb.init(
        project=cfg.logger.project,
        entity=cfg.logger.entity,
        mode=mode,  # type: ignore[arg-type]
        dir=str(directory),
        id=identity,
        name=description.name,
        group=description.group,
        job_type=description.job_type,
        tags=description.tags,
        resume="allow",
        config=description.config,
        settings=wandb.Settings(**_settings()),
    )


def finish_wandb(exit_code: int) -> None:
    """End the W&B run of this process, if any; an exit code other than 0 marks it as failed.

    A run that has logged nothing is started first, so that W&B shows failed ones too, unless a signal ends the process.
    """
    while _waiting:
        logger = _waiting.pop()
        if exit_code < STOPPED:
            logger.begin()
    if "wandb" in sys.modules:
        import wandb

        if wandb.run is not None:
            try:
                wandb.finish(exit_code=exit_code)
            except Exception as error:
                _warn(f"W&B could not end its record of this run ({_reason(error)})")
