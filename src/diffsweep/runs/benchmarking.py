"""The command ``benchmark.py``: the cost of diffsweep over bare PyTorch, as ratios that one process measures."""

import json
from pathlib import Path

import torch
from omegaconf import DictConfig

from diffsweep import benchmarks, shell
from diffsweep.benchmarks.base import MEMORY, PARTS, Bench
from diffsweep.configuration.build import build_data, build_diffusion
from diffsweep.datasets import ImageData
from diffsweep.discovery import import_all, is_of
from diffsweep.errors import UserError
from diffsweep.files import write_text
from diffsweep.models import DiffusionModel
from diffsweep.runs import report
from diffsweep.runs.latents import keep_latents
from diffsweep.runs.stages import resolve_stages
from diffsweep.runs.tracking import loggers
from diffsweep.runs.training import make_trainer, train


def benchmark(cfg: DictConfig) -> float:
    """Run ``benchmark.py``: print and write the cost of diffsweep over bare PyTorch, and return the first ratio.

    Each ratio is a time (or memory) of diffsweep over that of the same work in bare PyTorch, such as the network calls
    alone. They are written to ``benchmark.json`` in the run's directory.

    Args:
        cfg: a checked configuration of ``benchmark``; ``parts`` names what is measured.

    Raises:
        UserError: ``repeats`` is below 3, ``train_steps`` is below 1, or ``parts`` is empty or has an unknown name.
    """
    if cfg.repeats < 3 or cfg.train_steps < 1:
        raise UserError(
            f"repeats must be at least 3 and train_steps at least 1, not {cfg.repeats} and {cfg.train_steps}"
        )
    import_all(benchmarks)
    parts = {name: part for name, part in PARTS.items() if is_of(part, cfg.trust)}
    if not cfg.parts:
        raise UserError(f"parts is empty; a benchmark has {', '.join(parts)}")
    if unknown := sorted(set(cfg.parts) - set(parts)):
        raise UserError(f"parts has {', '.join(unknown)}; a benchmark has {', '.join(parts)}")
    resolve_stages(cfg, train)
    folder = Path(cfg.paths.run_dir)
    bench = Bench(cfg, _fresh, lambda settings, callbacks: make_trainer(settings, callbacks, loggers(cfg)))
    results = {label: result for name in cfg.parts for label, result in parts[name](bench).items()}
    settings = {"threads": torch.get_num_threads(), "torch": torch.__version__, "batch_size": cfg.dataset.batch_size}
    settings |= {"device": "cuda" if torch.cuda.is_available() else "cpu", "repeats": cfg.repeats}
    write_text(folder / "benchmark.json", json.dumps({"settings": settings, "results": results}, indent=2) + "\n")
    rows = [
        (
            label,
            f"{result['ratio']:.3f}",
            f"{result['ours'] / 2**20:.1f} MiB against {result['bare'] / 2**20:.1f} MiB"
            if label.startswith(MEMORY)
            else f"90 % of repeats {result['low']:.3f} to {result['high']:.3f}; "
            f"{1000 * result['ours']:.2f} ms against {1000 * result['bare']:.2f} ms",
        )
        for label, result in results.items()
    ]
    print(f"\n{report.table(rows)}\n\n  {shell.shown(folder / 'benchmark.json')}")
    return next(iter(results.values()))["ratio"]


def _fresh(cfg: DictConfig) -> tuple[DiffusionModel, ImageData]:
    model, data = build_diffusion(cfg), build_data(cfg)
    keep_latents(cfg, model, data)
    return model, data
