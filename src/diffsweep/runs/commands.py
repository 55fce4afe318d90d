"""The commands ``evaluate.py`` and ``sample.py``, which use a finished run and may first train stages that it needs."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffsweep import pictures, shell
from diffsweep.comparison.records import EVALUATION
from diffsweep.configuration.build import build, build_data, build_data_if_found, build_metrics, execute, products
from diffsweep.configuration.loading import load_model, load_sampled
from diffsweep.errors import UserError
from diffsweep.files import write_atomically, write_text
from diffsweep.layers.distributed import is_first, together
from diffsweep.metrics.generation import AUTO
from diffsweep.models import DiffusionModel, Model
from diffsweep.runs import report
from diffsweep.runs.batch_that_fits import batch_that_fits
from diffsweep.runs.duels import fights_duels
from diffsweep.runs.evaluation import headline, measure
from diffsweep.runs.machine import check_sampling_machine
from diffsweep.runs.stages import resolve_stages
from diffsweep.runs.tracking import finishing, log_beginning, log_end, log_pictures, places, used_by
from diffsweep.runs.training import train
from diffsweep.tasks.sampling import Job
from diffsweep.tasks.showing import show_first


def evaluate(cfg: DictConfig) -> float:
    """Run ``evaluate.py``: measure a finished run, and return the number by which a sweep compares its jobs.

    Of several processes, as ``torchrun --nproc_per_node=2 src/evaluate.py run=RUN`` starts them, each takes a share of
    the samples and features, and the first one writes and prints; the others return NaN.

    ``metrics.json``, ``evaluation.yaml`` (the configuration), pictures and tables are written into the folder
    ``cfg.output``, and a table of the numbers is printed. Other trained models that the measurement needs are trained
    first.

    Args:
        cfg: a checked configuration of ``evaluate``.

    Raises:
        UserError: nothing is measured, since ``metrics`` and ``likelihood`` are ``none``, a needed model is missing, or
            the machine lacks the device or its precision.
    """
    check_sampling_machine(cfg)
    if cfg.num_samples is not None and "_target_" in cfg.metrics:
        cfg.metrics.num_samples = cfg.num_samples
    resolve_stages(cfg, train)
    with finishing(), together(), products(cfg):
        return _evaluate(cfg, Path(cfg.output))


def _evaluate(cfg: DictConfig, folder: Path) -> float:
    data, model = build_data(cfg), execute(cfg, load_model(cfg))
    nothing = not any("_target_" in cfg[group] for group in ("metrics", "likelihood"))
    if isinstance(model, DiffusionModel) and nothing and not fights_duels(model):
        raise UserError(
            "metrics=none and likelihood=none leave nothing to measure; choose metrics=digits or likelihood=bound"
        )
    _print_average(model)
    track = used_by(cfg, "evaluate") if is_first() else []
    log_beginning(track, cfg, data)
    numbers, drawn, few = measure(cfg, model, data, folder)
    if not is_first():
        return float("nan")
    if isinstance(model, DiffusionModel) and drawn is not None:
        show_first(model, drawn, folder / "grid")
        for logger in track:
            logger.log_samples(drawn.x, drawn.request, 0)
        print(f"\n{cfg.metrics.num_samples} samples by {cfg.choices.sampler} in {cfg.sampler.steps} steps")
    for logger in track:
        logger.log_results(numbers, 0)
    log_pictures(track, folder, 0, f"run {Path(cfg.paths.run_dir).name}, sampler={cfg.choices.sampler}")
    log_end(track, folder)
    write_text(folder / EVALUATION, OmegaConf.to_yaml(cfg))
    print("\n" + report.table(report.metric_rows(numbers, few)) + "\n")
    _print_places(cfg, folder, (".json", ".yaml", ".csv", *pictures.SHOWN))
    return headline(numbers, cfg.optimized_metric)


def sample(cfg: DictConfig) -> Path:
    """Run ``sample.py``: do a task, such as drawing new images, with a finished run, and return the output folder.

    The folder gets ``samples.npz`` with the samples as ``arr_0`` (uint8, (N, H, W, C), of clips (N, F, H, W, C)) and,
    if they were requested by labels, these as ``arr_1`` (int64, (N,)); the pictures of the task; and, if the samples
    were requested by labels or captions, ``requests.tsv`` with one row for each. Other trained models that sampling
    needs are trained first.

    Args:
        cfg: a checked configuration of ``sample``.

    Raises:
        UserError: a number is below 1, the task or the number of frames does not suit the model, or the machine lacks
            the device or its precision.
    """
    if cfg.num_samples < 1:
        raise UserError(f"num_samples must be at least 1, not {cfg.num_samples}")
    if cfg.batch_size != AUTO and not (isinstance(cfg.batch_size, int) and cfg.batch_size > 0):
        raise UserError(f"batch_size must be auto or at least 1, not {cfg.batch_size}")
    if cfg.pages is not None and cfg.pages < 1:
        raise UserError(f"pages must be at least 1, or null for as many as show all samples, not {cfg.pages}")
    check_sampling_machine(cfg)
    resolve_stages(cfg, train)
    with finishing(), products(cfg):
        return _sample(cfg, Path(cfg.output))


def _sample(cfg: DictConfig, folder: Path) -> Path:
    task, data, model = build(cfg, "task"), build_data_if_found(cfg), load_sampled(cfg)
    execute(cfg, model)
    _print_average(model)
    if cfg.num_frames is not None:
        try:
            model.autoencoder.lengthen(cfg.num_frames)
        except ValueError as error:
            raise UserError(str(error)) from error
    track = used_by(cfg, "sample")
    log_beginning(track, cfg, data)
    size = batch_that_fits(model, data, cfg.num_samples) if cfg.batch_size == AUTO else cfg.batch_size
    job = Job(model, data, folder, cfg.num_samples, cfg.seed, size, cfg.pages, partial(build_metrics, cfg))
    drawn, done = task(job)
    arrays = {"arr_0": pictures.to_uint8(drawn.x)}
    if "label" in drawn.request:  # as public evaluators expect them
        arrays["arr_1"] = drawn.request["label"].cpu().numpy().astype(np.int64)
    write_atomically(folder / "samples.npz", lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    if words := {name: drawn.request[name] for name in ("label", "caption") if name in drawn.request}:
        columns = [values.tolist() if isinstance(values, Tensor) else values for values in words.values()]
        lines = ["\t".join(shell.one_line(str(value)) for value in row) for row in zip(*columns, strict=True)]
        write_text(folder / "requests.tsv", "\n".join(["\t".join(words), *lines]) + "\n")
    speed = {"images_per_second": len(drawn.x) / drawn.seconds, "network_evaluations": drawn.evaluations}
    for logger in track:
        logger.log_samples(drawn.x, drawn.request, 0)
        logger.log_facts(speed)
    log_pictures(track, folder, 0, done)
    log_end(track, folder)
    rate, made = len(drawn.x) / drawn.seconds, "clips" if drawn.x.ndim == 5 else "images"
    print(
        f"\n{done}\nby {cfg.choices.sampler} in {model.sampler.steps} steps, "
        f"{drawn.evaluations:g} network evaluations each, "
        f"{rate:{'.0f' if rate >= 10 else '.2g'}} {made}/s"
    )
    _print_places(cfg, folder, (".npz", ".tsv", *pictures.SHOWN))
    return folder


def _print_average(model: Model) -> None:
    """Print how the average that ``ema`` requested was made, with its error; nothing without the key."""
    if is_first() and model.average is not None:
        print(model.average, flush=True)


def _print_places(cfg: DictConfig, folder: Path, suffixes: Sequence[str]) -> None:
    """Print the files of a folder that have one of the suffixes, pages as one, and where loggers have written."""
    for path, remark in pictures.listed([path for path in sorted(folder.glob("*")) if path.suffix in suffixes]):
        print(f"  {shell.shown(path)} {remark}".rstrip())
    for name, command in places(cfg, folder):
        print(f"  {name}: {command}")
