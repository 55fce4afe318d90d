"""The command ``train.py``: a run from its checked configuration to its metrics."""

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from omegaconf import DictConfig

from diffsweep import pictures, shell
from diffsweep.callbacks import EMA, BeginRounds, RunLogger, ShardedStrategy, StopOnNaN, TrainingMeter, log_picture
from diffsweep.callbacks.checkpoints import FOLDER, LAST, AtomicCheckpoints, KeepCheckpoints
from diffsweep.callbacks.power_averages import FOLDER as SNAPSHOTS
from diffsweep.callbacks.profilers import FOLDER as PROFILE
from diffsweep.configuration.build import build, build_data, build_model, execute, products
from diffsweep.configuration.saved import CONFIG
from diffsweep.datasets import ImageData
from diffsweep.datasets.loader import errors_of_workers
from diffsweep.errors import Stopped, UserError
from diffsweep.layers import release
from diffsweep.models import DiffusionModel, Model
from diffsweep.processes import starts_first
from diffsweep.progress import duration
from diffsweep.runs import report
from diffsweep.runs.claiming import alone_in, claim, refuse_busy, refuse_taken
from diffsweep.runs.cost import cost_of
from diffsweep.runs.evaluation import Measured, headline, measure
from diffsweep.runs.machine import check_machine, check_processes
from diffsweep.runs.memory import MemoryOfSteps, ShortOfMemory, divide, why_not_halved
from diffsweep.runs.profiling import profiling
from diffsweep.runs.ranks import errors_of_ranks, meeting
from diffsweep.runs.recovery import recover
from diffsweep.runs.replaying import replay
from diffsweep.runs.resuming import GoOn, Resumption
from diffsweep.runs.stages import resolve_stages
from diffsweep.runs.stopping import StopSignals, forget
from diffsweep.runs.tracking import finishing, log_beginning, log_checkpoints, log_end, loggers, places
from diffsweep.runs.training_samples import keep_samples
from diffsweep.runs.verification import CERTIFICATE, certify, refuse
from diffsweep.tasks.sampling import trajectory
from diffsweep.tasks.showing import show_first


def train(cfg: DictConfig) -> float:
    """Run ``train.py``: train a model, measure it, and return the number that sweeps minimise.

    The number is chosen by :func:`~diffsweep.runs.evaluation.headline`. All files are written into the run's directory,
    ``cfg.paths.run_dir``. Other trained models that the run needs are trained first. A job of a sweep that has finished
    in an earlier start of the sweep is not run again.

    Args:
        cfg: a checked configuration, from :func:`~diffsweep.configuration.compose.compose` or from the command line.

    Raises:
        UserError: the run's directory has another run, or no checkpoint to resume from; or the device has too little
            memory, and the batch may not be halved.
        Stopped: the process received Ctrl-C, SIGTERM or SIGUSR1.
    """
    directory = Path(cfg.paths.run_dir)
    if cfg.get("plan"):
        raise UserError(
            "a plan trains nothing: from Python diffsweep.plan(cfg) returns the prediction, and sweepers of "
            "Hydra's start their jobs: leave hydra/sweeper out"
        )
    if cfg.replay:
        return replay(cfg)
    check_processes(cfg)
    if starts_first():
        check_machine(cfg)
        refuse_busy(directory)
    if cfg.sweep is not None and cfg.resume_from is None:
        _go_on(cfg, directory)
    if starts_first():
        refuse_taken(cfg)
    data = build_data(cfg)
    if starts_first():
        data.split("train")  # what cannot be read is an error before anything is written
    resolve_stages(cfg, train)
    if (adaptation := build(cfg, "adaptation")) is not None:
        cfg.adaptation.weights = adaptation.identify()
    with alone_in(directory) if starts_first() else nullcontext():
        if starts_first():
            recover(directory, cfg.resume_from is not None)
            forget(directory)
        while True:
            resumption = Resumption(cfg) if cfg.resume_from else None
            if starts_first() and resumption is None:
                claim(cfg)  # a resumed run writes its configuration when its changes have taken effect
            try:
                with finishing(), products(cfg):
                    return _train(cfg, directory, data, resumption)
            except ShortOfMemory as error:
                if error.step is None or why_not_halved(cfg) is not None:
                    raise
                short = error.step
            _go_on_with_half(cfg, directory, short)  # outside of the except clause, which holds all memory
            data = build_data(cfg)


def _go_on(cfg: DictConfig, directory: Path) -> None:
    """Let a training that was stopped or has failed resume from its checkpoint, or begin again if it has none."""
    if (directory / FOLDER / LAST).is_file():
        cfg.resume_from = str(directory)
    elif starts_first():
        (directory / CONFIG).unlink(missing_ok=True)


def _go_on_with_half(cfg: DictConfig, directory: Path, step: int) -> None:
    """Halve the batch of a training that had no memory in a step, and let it go on from its checkpoint, if any."""
    release()
    before, change = cfg.dataset.batch_size, divide(cfg)
    print(
        f"warning: out of memory on the device in step {step} with dataset.batch_size={before}; goes on with {change}, "
        "with the same samples in each step (halve_batch=false stops instead)",
        file=sys.stderr,
        flush=True,
    )
    _go_on(cfg, directory)
    if cfg.resume_from is None:
        (directory / "metrics.csv").unlink(missing_ok=True)


def _train(cfg: DictConfig, directory: Path, data: ImageData, resumption: Resumption | None) -> float:
    begin = time.perf_counter()
    if starts_first():
        print(f"run {shell.shown(directory)}\n{cost_of(cfg)}", flush=True)
        if cfg.verify and cfg.resume_from is None:
            refuse([check for check in certify(cfg, directory) if not check.passed])
    model = execute(cfg, build_model(cfg))
    if model.adaptation is not None and starts_first():
        print(f"from {shell.shown(cfg.adaptation.run)}: {model.adaptation.described(model)}", flush=True)
    keep_samples(cfg, model, data)
    last = directory / FOLDER / LAST
    signals = StopSignals(str(last), directory)
    keep = KeepCheckpoints(last.parent)
    memory = MemoryOfSteps(cfg)
    callbacks = [*callbacks_of(cfg), signals, keep, memory, GoOn(data, resumption, partial(claim, cfg)), BeginRounds()]
    if resumption is not None:
        resumption.check(model, data, callbacks)
        if starts_first():
            resumption.report()
    track = loggers(cfg) if starts_first() else []
    log_beginning(track, cfg, data)
    with signals, profiling(cfg, model) as profiler:
        trainer = make_trainer(cfg, callbacks, track, profiler)

        def stopped(code: object) -> None:
            if trainer.is_global_zero:
                step = max(trainer.global_step, 0 if resumption is None else resumption.step)
                signals.record(step, code)
                _print_where_it_stopped(cfg, step, directory)

        try:
            with meeting(trainer, stopped), errors_of_ranks(), errors_of_workers(), memory.watched():
                trainer.fit(model, data, ckpt_path=last if cfg.resume_from else None)
            trained = time.perf_counter() - begin
            if not trainer.is_global_zero:
                with errors_of_ranks(), _averaged(model, trainer):
                    if isinstance(model, DiffusionModel):  # their share of the samples and their features
                        measure(cfg, model, data, directory)
                return float("nan")
            with errors_of_ranks(), memory.watched():
                measured = _measure(cfg, trainer, model, data, track)
            numbers = {"val/loss": keep.latest, **measured.numbers}
        except Stopped as stop:
            stopped(stop.code)
            raise
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        report.add_cost(directory / "metrics.json", time.perf_counter() - begin, trainable)
        log_checkpoints(track, directory, last.parent)
        log_end(track, directory)
    rows = report.metric_rows(numbers, measured.few)
    _print_summary(cfg, directory, numbers, rows, (trained, time.perf_counter() - begin))
    print(f"  {'next':<9} {shell.command(model.next_command, directory)}")
    return headline(numbers, cfg.optimized_metric)


def _measure(cfg: DictConfig, trainer: Trainer, model: Model, data: ImageData, track: list[RunLogger]) -> Measured:
    """Measure the averaged weights, save their pictures, and log both."""
    directory = Path(cfg.paths.run_dir)
    with _averaged(model, trainer):
        measured = measure(cfg, model, data, directory)
        drawn = measured.drawn
        if isinstance(model, DiffusionModel) and drawn is not None:
            trajectory(model, data, directory / "samples" / "trajectory.gif", cfg.seed)
    for logger in track:
        logger.log_results(measured.numbers, trainer.global_step)
    if isinstance(model, DiffusionModel) and drawn is not None:
        final = show_first(model, drawn, directory / "final")[0]
        log_picture(track, "final", final, trainer.global_step, f"samples by {cfg.choices.sampler} at the end")
        for logger in track:
            logger.log_samples(drawn.x, drawn.request, trainer.global_step)
    return measured


def _print_where_it_stopped(cfg: DictConfig, step: int, directory: Path) -> None:
    """Print the step at which a signal has stopped the run, and how to resume it; a sweep prints its own command."""
    last = directory / FOLDER / LAST
    if last.exists():
        print(f"\nstopped at step {step}, saved in {shell.shown(last)}")
        if cfg.sweep is None:
            print(f"  resume with: {shell.command('train.py resume', directory)}")
    elif cfg.sweep is None:
        print(f"\nstopped before anything was saved; {shell.shown(directory)} can be deleted")


def callbacks_of(cfg: DictConfig) -> list[Callback]:
    """Return the callbacks of a training that its configuration chooses, after a guard against NaN, which all have."""
    built: list[Callback] = list(build(cfg, "callbacks").values())
    guards = [callback for callback in built if isinstance(callback, StopOnNaN)] or [StopOnNaN(cfg.paths.run_dir)]
    return [*guards, TrainingMeter(), *(callback for callback in built if callback not in guards)]


def make_trainer(
    cfg: DictConfig, callbacks: list[Callback], track: Sequence[Logger], profiler: Profiler | None = None
) -> Trainer:
    """Return Lightning's Trainer as ``cfg.trainer`` describes it, with the given callbacks and loggers.

    Checkpoints are written atomically, and gradients are possible in validation, since it runs without inference mode.
    A training shorter than the interval of validations is validated once, at its end.

    Args:
        cfg: the run's configuration.
        callbacks: all callbacks, among them any progress bar and those that save checkpoints.
        track: the loggers.
        profiler: the profiler that ``trainer.profiler`` chooses; None for none, unless the configuration has an object.
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
        **({} if isinstance(cfg.trainer.get("profiler"), DictConfig) else {"profiler": profiler}),
    )
    return trainer


@contextmanager
def _averaged(model: Model, trainer: Trainer) -> Iterator[None]:
    """Put the averaged weights, if any, into the model within the context, and gather them if they are sharded."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    ema = next((callback for callback in callbacks if isinstance(callback, EMA)), None)
    strategy = trainer.strategy
    whole = strategy.gathered() if isinstance(strategy, ShardedStrategy) else nullcontext()
    with nullcontext() if ema is None else ema.applied(model), whole:
        yield


def _print_summary(
    cfg: DictConfig,
    directory: Path,
    numbers: dict[str, float],
    rows: list[tuple[str, str, str]],
    seconds: tuple[float, float],
) -> None:
    trained, total = seconds
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
        "weights": [directory / FOLDER / LAST, directory / SNAPSHOTS],
        "profile": [directory / PROFILE],
    }
    print(f"\n{report.table(rows)}\n")
    for name, paths in files.items():
        for number, path in enumerate(path for path in paths if path.exists()):
            print(f"  {'' if number else name:<9} {shell.shown(path)}")
    for name, command in places(cfg, directory):
        print(f"  {name:<9} {command}")


def _quiet() -> None:
    """Silence Lightning's notices on hardware and workers, which are of no use to users of diffsweep."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in ("does not have many workers", "Checkpoint directory", "`isinstance.*LeafSpec", "self.log.'step'"):
        warnings.filterwarnings("ignore", f".*{message}")
