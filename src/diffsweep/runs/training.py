"""The command ``train.py``: a run from its checked configuration to its metrics."""

import importlib.metadata
import logging
import platform
import subprocess
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from diffsweep import pictures, shell
from diffsweep.callbacks import EMA, RunLogger, StopOnNaN, TrainingMeter, log_picture
from diffsweep.callbacks.checkpoints import FOLDER, LAST, AtomicCheckpoints, KeepCheckpoints
from diffsweep.comparison.records import LOCK
from diffsweep.configuration.build import build, build_data, build_model
from diffsweep.configuration.saved import CONFIG
from diffsweep.datasets import ImageData
from diffsweep.datasets.loader import errors_of_workers
from diffsweep.errors import Stopped, UserError
from diffsweep.files import in_use, owned, write_text
from diffsweep.models import DiffusionModel, Model
from diffsweep.progress import duration
from diffsweep.runs import report
from diffsweep.runs.cost import cost_of
from diffsweep.runs.evaluation import headline, measure
from diffsweep.runs.latents import keep_latents
from diffsweep.runs.machine import check_machine
from diffsweep.runs.recovery import recover
from diffsweep.runs.replaying import replay
from diffsweep.runs.resuming import GoOn, Resumption
from diffsweep.runs.stages import is_rank_zero, resolve_stages
from diffsweep.runs.stopping import StopSignals
from diffsweep.runs.tracking import finishing, log_beginning, log_checkpoints, log_end, loggers, places
from diffsweep.runs.verification import CERTIFICATE, certify, refuse
from diffsweep.tasks.sampling import trajectory
from diffsweep.tasks.showing import show_first

PACKAGES = ("diffsweep", "torch", "lightning", "hydra-core", "omegaconf", "torchmetrics", "numpy")


def train(cfg: DictConfig) -> float:
    """Run ``train.py``: train a model, measure it, and return the number that sweeps minimise.

    The number is chosen by :func:`~diffsweep.runs.evaluation.headline`. All files are written into the run's directory,
    ``cfg.paths.run_dir``. Other trained models that the run needs are trained first. A job of a sweep that has finished
    in an earlier start of the sweep is not run again.

    Args:
        cfg: a checked configuration, from :func:`~diffsweep.configuration.compose.compose` or from the command line.

    Raises:
        UserError: the run's directory has another run, or no checkpoint to resume from.
        Stopped: the process received Ctrl-C or SIGTERM.
    """
    directory = Path(cfg.paths.run_dir)
    if cfg.replay:
        return replay(cfg)
    if is_rank_zero():
        check_machine(cfg)
        if in_use(directory / LOCK):
            raise _taken(directory)
    if cfg.sweep is not None and cfg.resume_from is None:
        _go_on(cfg, directory)
    if is_rank_zero():
        refuse_taken(cfg)
    resolve_stages(cfg, train)
    with _alone_in(directory) if is_rank_zero() else nullcontext():
        if is_rank_zero():
            recover(directory, cfg.resume_from is not None)
        resumption = Resumption(cfg) if cfg.resume_from else None
        if is_rank_zero() and resumption is None:
            claim(cfg)  # a resumed run writes its configuration when its changes have taken effect
        with finishing():
            return _train(cfg, directory, resumption)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Hold the lock of a run's directory, by which others know that the run is in progress.

    Raises:
        UserError: another process trains the run now.
    """
    with ExitStack() as held:
        try:
            held.enter_context(owned(directory / LOCK))
        except BlockingIOError as error:
            raise _taken(directory) from error
        yield


def _taken(directory: Path) -> UserError:
    return UserError(f"{shell.shown(directory)} is trained by another process now; wait for its end")


def refuse_taken(cfg: DictConfig) -> None:
    """Raise a UserError unless the run's directory has no run yet or, when resuming, has a checkpoint.

    Raises:
        UserError: the run's directory has another run, or no checkpoint to resume from.
    """
    directory = Path(cfg.paths.run_dir)
    if cfg.resume_from is not None:
        if not (directory / FOLDER / LAST).is_file():
            raise UserError(
                f"{shell.shown(directory)} cannot be resumed: it has no {FOLDER}/{LAST}; start the run again"
            )
    elif (directory / CONFIG).exists():
        raise UserError(
            f"{shell.shown(directory)} has a run already; use {shell.typed('resume', directory)} to continue it, "
            "or another directory"
        )


def claim(cfg: DictConfig) -> None:
    """Claim the run's directory by writing the configuration into it, with the versions of packages and the commit.

    The configuration contains the directories of its stages, the other trained models that the run needs.

    Raises:
        UserError: the run's directory has another run, or no checkpoint to resume from.
    """
    refuse_taken(cfg)
    saved = OmegaConf.to_container(cfg, resolve=False)
    versions = {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}
    record = {"resume_from": None, "versions": versions, "git": git_state()}
    content = OmegaConf.create({**saved, **record})  # type: ignore[dict-item]
    write_text(Path(cfg.paths.run_dir) / CONFIG, OmegaConf.to_yaml(content))


def _go_on(cfg: DictConfig, directory: Path) -> None:
    """Let a job of a sweep that was stopped or has failed resume from its checkpoint, or begin again if it has none."""
    if (directory / FOLDER / LAST).is_file():
        cfg.resume_from = str(directory)
    elif is_rank_zero():
        (directory / CONFIG).unlink(missing_ok=True)


def _train(cfg: DictConfig, directory: Path, resumption: Resumption | None) -> float:
    begin = time.perf_counter()
    if is_rank_zero():
        print(f"run {shell.shown(directory)}\n{cost_of(cfg)}", flush=True)
        if cfg.verify and cfg.resume_from is None:
            refuse([check for check in certify(cfg, directory) if not check.passed])
    data, model = build_data(cfg), build_model(cfg)
    keep_latents(cfg, model, data)
    last = directory / FOLDER / LAST
    signals = StopSignals(str(last))
    keep = KeepCheckpoints(last.parent)
    built: list[Callback] = list(build(cfg, "callbacks").values())
    guards = [callback for callback in built if isinstance(callback, StopOnNaN)] or [StopOnNaN(str(directory))]
    others = [callback for callback in built if callback not in guards]
    callbacks: list[Callback] = [*guards, TrainingMeter(), *others, signals, keep]
    callbacks.append(GoOn(data, resumption, partial(claim, cfg)))
    if resumption is not None:
        resumption.check(model, data, callbacks)
        if is_rank_zero():
            resumption.report()
    track = loggers(cfg) if is_rank_zero() else []
    log_beginning(track, cfg, data)
    trainer = make_trainer(cfg, callbacks, track)
    with signals:
        try:
            with errors_of_workers():
                trainer.fit(model, data, ckpt_path=last if cfg.resume_from else None)
            trained = time.perf_counter() - begin
            if not trainer.is_global_zero:
                return float("nan")
            numbers = {"val/loss": keep.latest, **_measure(cfg, trainer, model, data, track)}
        except Stopped:
            _print_where_it_stopped(cfg, trainer, directory)
            raise
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        report.add_cost(directory / "metrics.json", time.perf_counter() - begin, trainable)
        log_checkpoints(track, directory, last.parent)
        log_end(track, directory)
    _print_summary(cfg, directory, numbers, trained, time.perf_counter() - begin)
    print(f"  {'next':<9} {shell.command(model.next_command, directory)}")
    return headline(numbers, cfg.optimized_metric)


def _measure(
    cfg: DictConfig, trainer: Trainer, model: Model, data: ImageData, track: list[RunLogger]
) -> dict[str, float]:
    """Measure the averaged weights, save their pictures, and log both."""
    directory = Path(cfg.paths.run_dir)
    with _averaged(model, trainer.callbacks):  # type: ignore[attr-defined]
        measured, drawn = measure(cfg, model, data, directory)
        if isinstance(model, DiffusionModel) and drawn is not None:
            trajectory(model, data, directory / "samples" / "trajectory.gif", cfg.seed)
    for logger in track:
        logger.log_results(measured, trainer.global_step)
    if isinstance(model, DiffusionModel) and drawn is not None:
        final = show_first(model, drawn, directory / "final")[0]
        log_picture(track, "final", final, trainer.global_step, f"samples by {cfg.choices.sampler} at the end")
        for logger in track:
            logger.log_samples(drawn.x, drawn.request, trainer.global_step)
    return measured


def _print_where_it_stopped(cfg: DictConfig, trainer: Trainer, directory: Path) -> None:
    """Print the step at which a signal has stopped the run, and how to resume it; a sweep prints its own command."""
    last = directory / FOLDER / LAST
    if last.exists():
        print(f"\nstopped at step {trainer.global_step}, saved in {shell.shown(last)}")
        if cfg.sweep is None:
            print(f"  resume with: {shell.command('train.py resume', directory)}")
    elif cfg.sweep is None:
        print(f"\nstopped before anything was saved; {shell.shown(directory)} can be deleted")


def make_trainer(cfg: DictConfig, callbacks: list[Callback], track: Sequence[Logger]) -> Trainer:
    """Return Lightning's Trainer as ``cfg.trainer`` describes it, with the given callbacks and loggers.

    Checkpoints are written atomically, and gradients are possible in validation, since it runs without inference mode.
    A training shorter than the interval of validations is validated once, at its end.

    Args:
        cfg: the run's configuration.
        callbacks: all callbacks, among them any progress bar and those that save checkpoints.
        track: the loggers.
    """
    _quiet()
    settings = cfg.copy()
    interval = min(cfg.trainer.val_check_interval, cfg.trainer.max_steps)  # a short run is validated once, at its end
    settings.trainer.val_check_interval = interval * cfg.trainer.accumulate_grad_batches  # Lightning counts batches
    trainer: Trainer = build(
        settings,
        "trainer",
        callbacks=callbacks,
        logger=list(track),
        plugins=[AtomicCheckpoints()],
        enable_checkpointing=False,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        inference_mode=False,
    )
    return trainer


def _averaged(model: Model, callbacks: list[Callback]) -> AbstractContextManager[None]:
    """Put the averaged weights, if any, into the model within the context."""
    ema = next((callback for callback in callbacks if isinstance(callback, EMA)), None)
    return nullcontext() if ema is None else ema.applied(model)


def _print_summary(cfg: DictConfig, directory: Path, numbers: dict[str, float], trained: float, total: float) -> None:
    rows = report.metric_rows(numbers)
    if "val/loss" in numbers:
        rows.append(("val loss", f"{numbers['val/loss']:.4f}", "on the same held-out samples in every run"))
    rows.append(("training", duration(trained), ""))
    if (evaluated := total - trained) >= 1:
        rows.append(("evaluation", duration(evaluated), f"{evaluated / total:.0%} of the time"))
    rows.append(("in all", duration(total), ""))
    shown = [path for path in sorted(directory.glob("*")) if path.suffix in pictures.SHOWN]
    files = {
        "pictures": [*shown, directory / "samples"],
        "numbers": [directory / "metrics.json", directory / "metrics.csv"],
        "proofs": [directory / CERTIFICATE],
        "weights": [directory / FOLDER / LAST],
    }
    print(f"\n{report.table(rows)}\n")
    for name, paths in files.items():
        for number, path in enumerate(path for path in paths if path.exists()):
            print(f"  {'' if number else name:<9} {shell.shown(path)}")
    for name, command in places(cfg, directory):
        print(f"  {name:<9} {command}")


def git_state() -> dict[str, str | bool]:
    """Return the ``commit`` of diffsweep's code, and whether the working tree has changes of it, as ``changed``.

    The dict is empty outside a git repository. Files that git does not track do not count.
    """

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _quiet() -> None:
    """Silence Lightning's notices on hardware and workers, which are of no use to users of diffsweep."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in ("does not have many workers", "Checkpoint directory", "`isinstance.*LeafSpec", "self.log.'step'"):
        warnings.filterwarnings("ignore", f".*{message}")
