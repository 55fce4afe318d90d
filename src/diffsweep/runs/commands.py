"""The commands ``evaluate.py`` and ``sample.py``, which use a finished run and may first train stages that it needs."""

from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffsweep import pictures, shell
from diffsweep.comparison.records import EVALUATION
from diffsweep.configuration.build import build, build_data
from diffsweep.configuration.loading import load_model, load_sampled
from diffsweep.errors import UserError
from diffsweep.files import write_atomically, write_text
from diffsweep.runs import report
from diffsweep.runs.evaluation import headline, measure
from diffsweep.runs.stages import resolve_stages
from diffsweep.runs.training import train
from diffsweep.tasks.sampling import Job


def evaluate(cfg: DictConfig) -> float:
    """Run ``evaluate.py``: measure a finished run, and return the number by which a sweep compares its jobs.

    ``metrics.json``, ``evaluation.yaml`` (the configuration), pictures and tables are written into the folder
    ``cfg.output``, and a table of the numbers is printed. Other trained models that the measurement needs are trained
    first.

    Args:
        cfg: a checked configuration of ``evaluate``.

    Raises:
        UserError: nothing is measured, since ``metrics`` and ``likelihood`` are ``none``, or a needed model is missing.
    """
    if cfg.num_samples is not None and "_target_" in cfg.metrics:
        cfg.metrics.num_samples = cfg.num_samples
    resolve_stages(cfg, train)
    folder = Path(cfg.output)
    data, model = build_data(cfg), load_model(cfg)
    numbers, drawn = measure(cfg, model, data, folder)
    if not numbers:
        raise UserError(
            "metrics=none and likelihood=none leave nothing to measure; choose metrics=digits or likelihood=bound"
        )
    if drawn is not None:
        pictures.save_shown(pictures.grid, [drawn.x[:100]], folder / "grid")
        print(f"\n{len(drawn.x)} samples by {cfg.choices.sampler} in {cfg.sampler.steps} steps")
    write_text(folder / EVALUATION, OmegaConf.to_yaml(cfg))
    print("\n" + report.table(report.metric_rows(numbers)) + "\n")
    for path in sorted(folder.glob("*")):
        if path.suffix in (".json", ".yaml", ".csv", *pictures.SHOWN):
            print(f"  {shell.shown(path)}")
    return headline(numbers, cfg.optimized_metric)


def sample(cfg: DictConfig) -> Path:
    """Run ``sample.py``: do a task, such as drawing new images, with a finished run, and return the output folder.

    The folder gets ``samples.npz`` (uint8), the pictures of the task and, if the samples were requested by labels or
    captions, ``requests.tsv`` with one row for each. Other trained models that sampling needs are trained first.

    Args:
        cfg: a checked configuration of ``sample``.

    Raises:
        UserError: a number is below 1, or the task or the number of frames does not suit the model.
    """
    if cfg.num_samples < 1 or cfg.batch_size < 1:
        raise UserError(f"num_samples and batch_size must be at least 1, not {cfg.num_samples} and {cfg.batch_size}")
    resolve_stages(cfg, train)
    folder = Path(cfg.output)
    task, data, model = build(cfg, "task"), build_data(cfg), load_sampled(cfg)
    if cfg.num_frames is not None:
        try:
            model.autoencoder.lengthen(cfg.num_frames)
        except ValueError as error:
            raise UserError(str(error)) from error
    drawn, done = task(Job(model, data, folder, cfg.num_samples, cfg.seed, cfg.batch_size))
    write_atomically(folder / "samples.npz", lambda file: np.savez(file, arr_0=pictures.to_uint8(drawn.x)))
    if words := {name: drawn.request[name] for name in ("label", "caption") if name in drawn.request}:
        columns = [values.tolist() if isinstance(values, Tensor) else values for values in words.values()]
        lines = ["\t".join(map(str, row)) for row in zip(*columns, strict=True)]
        write_text(folder / "requests.tsv", "\n".join(["\t".join(words), *lines]) + "\n")
    rate, made = len(drawn.x) / drawn.seconds, "clips" if drawn.x.ndim == 5 else "images"
    print(
        f"\n{done}\nby {cfg.choices.sampler} in {model.sampler.steps} steps, "
        f"{drawn.evaluations:g} network evaluations each, "
        f"{rate:{'.0f' if rate >= 10 else '.2g'}} {made}/s"
    )
    for path in sorted(folder.glob("*")):
        if path.suffix in (".npz", ".tsv", *pictures.SHOWN):
            print(f"  {shell.shown(path)}")
    return folder
