"""The command ``benchmark.py``: the cost of diffsweep over bare PyTorch and its peers, as ratios of one process."""

import importlib.util
import json
import platform
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from omegaconf import DictConfig

from diffsweep import benchmarks, shell
from diffsweep.benchmarks.base import BYTES, FLOPS, PARTS, SECONDS, Bench, BenchmarkPart, Ratio, Results
from diffsweep.configuration.build import build_data, build_diffusion, execute
from diffsweep.configuration.compose import compose
from diffsweep.configuration.preflight import preflight
from diffsweep.datasets import ImageData
from diffsweep.discovery import import_all, is_of
from diffsweep.errors import Failed, UserError, line_of
from diffsweep.files import write_text
from diffsweep.layers import release
from diffsweep.models import DiffusionModel
from diffsweep.plots import plot_ratios
from diffsweep.progress import ProgressMeter
from diffsweep.runs import report
from diffsweep.runs.cost import network_cost
from diffsweep.runs.latents import keep_latents
from diffsweep.runs.machine import check_machine, processes_of
from diffsweep.runs.stages import resolve_stages
from diffsweep.runs.tracking import loggers
from diffsweep.runs.training import make_trainer, train

SHARED = ("repeats", "train_steps", "sample_batch", "logged_steps")  # keys of a suite that its cases begin with
ABOVE = ("suite", "cases", "parts", "output")  # words that choose the cases, and are not of each of them
SCALES = {SECONDS: (1e-3, "ms", ".2f"), BYTES: (2**20, "MiB", ".1f"), FLOPS: (1e9, "GFLOP/s", ".4g")}


def benchmark(cfg: DictConfig) -> float:
    """Run ``benchmark.py``: print and write what diffsweep costs beside other code, and return the first ratio.

    Each ratio is a time (or memory) of diffsweep over that of the same work in bare PyTorch or in another package. They
    are written to ``benchmark.json`` in the run's directory after each part, and drawn in ``benchmark.png``. Of a suite
    of several cases, a part that cannot be measured is left out with one line, and the others go on.

    Args:
        cfg: a checked configuration of ``benchmark``; ``parts`` names what is measured, or without them ``cases`` the
            parts and options of several measurements.

    Raises:
        UserError: ``repeats``, ``train_steps``, ``sample_batch`` or ``logged_steps`` is too small, ``parts`` is empty
            or has an unknown name, the trainer is of several processes, or this machine lacks what it requires.
        Failed: parts of a suite have failed, other than by an option or a package that is missing; the results of the
            others are written.
    """
    import_all(benchmarks)
    if not cfg.parts and not cfg.cases:
        raise UserError(f"parts is empty; a benchmark has {', '.join(PARTS)}")
    folder = Path(cfg.paths.run_dir)
    cases = {"": cfg} if cfg.parts else {name: _case(cfg, words) for name, words in cfg.cases.items()}
    jobs = [(name, case, part) for name, case in cases.items() for part in _parts_of(case)]  # checked before any is run
    results: Results = {}
    failed: list[str] = []
    with ProgressMeter("suite", len(jobs), "part", disable=len(jobs) == 1) as progress:
        for name, case, part in jobs:
            try:
                found = _measured(case, part)
            except Exception as error:
                if not cfg.cases:
                    raise
                failed += _left_out(f"{name}: {part.__name__}", error)
                found = {}
            results |= {f"{name}: {label}" if name else label: result for label, result in found.items()}
            content = {"settings": _settings(cfg), "results": results, "failed": failed}
            write_text(folder / "benchmark.json", json.dumps(content, indent=2) + "\n")
            progress.update()
    if results:
        _show(results, folder)
    if failed:
        raise Failed(f"{len(failed)} of {len(jobs)} parts failed: {'; '.join(failed)}")
    if not results:
        raise UserError("no part of the suite can be measured here; the lines above have the reasons")
    return next(iter(results.values()))["ratio"]


def _measured(case: DictConfig, part: BenchmarkPart) -> Results:
    """Return the results of a part, and leave the device's memory to the next one."""
    try:
        resolve_stages(case, train)
        return part(Bench(case, _fresh, _trainer, network_cost, loggers))
    finally:
        release()


def _left_out(name: str, error: Exception) -> list[str]:
    """Print why a part is left out; return its name if that is a failure, and no missing option or package."""
    print(f"warning: {name} is left out ({line_of(error)[:400]})", file=sys.stderr, flush=True)
    if isinstance(error, UserError):
        return []
    traceback.print_exception(error)
    return [name]


def _show(results: Results, folder: Path) -> None:
    """Print the results, and draw them, beside the file that has them."""
    rows = [(label, f"{result['ratio']:.3f}", _remark(result)) for label, result in results.items()]
    print(f"\n{report.table(rows)}\n\n  {shell.shown(folder / 'benchmark.json')}")
    if importlib.util.find_spec("matplotlib") is not None:
        plot_ratios(results).savefig(folder / "benchmark.png", dpi=120)
        print(f"  {shell.shown(folder / 'benchmark.png')}")


def _case(cfg: DictConfig, words: Sequence[str]) -> DictConfig:
    """Return the configuration of a case of a suite: its own options, and after them those that were typed."""
    typed = [word for word in cfg.words if word.partition("=")[0] not in ABOVE]
    case = compose("benchmark", [*(f"{key}={cfg[key]}" for key in SHARED), *words, *typed])
    case.paths.run_dir = cfg.paths.run_dir
    preflight(case)
    return case


def _parts_of(cfg: DictConfig) -> list[BenchmarkPart]:
    for key, least in {"repeats": 3, "train_steps": 1, "sample_batch": 1, "logged_steps": 10 * cfg.repeats}.items():
        if cfg[key] < least:
            raise UserError(f"{key} must be at least {least}, not {cfg[key]}")
    parts = {name: part for name, part in PARTS.items() if is_of(part, cfg.trust)}
    if unknown := sorted(set(cfg.parts) - set(parts)):
        raise UserError(f"parts has {', '.join(unknown)}; a benchmark has {', '.join(parts)}")
    if (count := processes_of(cfg)) != 1:
        raise UserError(
            f"trainer={cfg.choices.trainer} with trainer.devices={cfg.trainer.devices} is of {count} processes, and a "
            "benchmark is one: its loops run on one device; type trainer=auto (parts=[processes] starts two of its own)"
        )
    check_machine(cfg)
    return [parts[name] for name in cfg.parts]


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """Return what the numbers depend on: the machine, the versions and the settings."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "device": "cpu" if gpu is None else "cuda",
        "machine": gpu or f"{platform.machine()}, {torch.get_num_threads()} threads",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "batch_size": cfg.dataset.batch_size,
        "precision": cfg.trainer.precision,
        "repeats": cfg.repeats,
    }


def _remark(result: Ratio) -> str:
    scale, unit, digits = SCALES[result["unit"]]
    values = " against ".join(f"{side / scale:{digits}} {unit}" for side in (result["ours"], result["bare"]))
    if result["low"] < result["high"]:
        values = f"90 % of repeats {result['low']:.3f} to {result['high']:.3f}; {values}"
    phases = [f"{name} {1000 * seconds:.0f} ms" for name, (seconds, _) in result.get("phases", {}).items()]
    return "; ".join([values, *([", ".join(phases)] if phases else [])])


def _trainer(cfg: DictConfig, callbacks: list[Callback]) -> Trainer:
    return make_trainer(cfg, callbacks, loggers(cfg))


def _fresh(cfg: DictConfig) -> tuple[DiffusionModel, ImageData]:
    model, data = build_diffusion(cfg), build_data(cfg)
    execute(cfg, model)
    keep_latents(cfg, model, data)
    return model, data
