"""Samples a model and measures the samples."""

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm import tqdm

from diffsweep.datasets import ImageData
from diffsweep.diffusion import Condition
from diffsweep.files import write_text
from diffsweep.metrics import GenerationMetrics, Likelihood
from diffsweep.models import DiffusionModel, Model
from diffsweep.plots import plot_bound_terms, plot_by_evaluations
from diffsweep.runs import report
from diffsweep.runs.build import build_likelihood, build_metrics
from diffsweep.runs.sampling import Drawn, draw
from diffsweep.runs.stage_nodes import portable

TERMS = "bound_terms"
COLUMNS = (
    "fid",
    "is",
    "kid",
    "copy_ratio",
    "bits_per_dim",
    "bits_per_dim_ode",
    "network_evaluations",
    "images_per_second",
)


class Measured(NamedTuple):
    """The numbers of a model, and the samples that they are of, where samples were measured."""

    numbers: dict[str, float]
    drawn: Drawn | None


def measure(cfg: DictConfig, model: Model, data: ImageData, folder: Path) -> Measured:
    """The numbers of a model, written into ``metrics.json`` of a folder."""
    if isinstance(model, DiffusionModel):
        return measure_diffusion(cfg, model, data, folder)
    numbers = model.measure(data, folder)
    protocols = {"protocol": {"model": cfg.choices.model, "data": data.fingerprint, "seed": cfg.seed}}
    report.write_metrics(folder / "metrics.json", numbers, protocols)
    return Measured(numbers, None)


def measure_diffusion(cfg: DictConfig, model: DiffusionModel, data: ImageData, folder: Path) -> Measured:
    """Draw samples and measure them, measure the data's likelihood, each where the configuration has it; write
    ``metrics.json`` and the curve of the bound's terms into a folder."""
    metrics, likelihood = build_metrics(cfg), build_likelihood(cfg)
    numbers: dict[str, float] = {}
    protocols: dict[str, Any] = {}
    drawn = None
    if metrics is not None:
        for warning in metrics.warnings():
            print(f"warning: {warning}")
        drawn = draw(model, metrics.num_samples, cfg.seed, metrics.batch_size)
        speed = {"images_per_second": len(drawn.x) / drawn.seconds, "network_evaluations": drawn.evaluations}
        numbers.update(metrics(drawn.x, data), **speed)
        protocols["protocol"] = protocol(cfg, metrics, data)
    if likelihood is not None:
        numbers.update(measure_likelihood(likelihood, model, data, folder))
        protocols["likelihood_protocol"] = {**likelihood.protocol(), "data": data.fingerprint, "levels": data.levels}
    if protocols:
        report.write_metrics(folder / "metrics.json", numbers, protocols)
    return Measured(numbers, drawn)


def measure_likelihood(
    likelihood: Likelihood, model: DiffusionModel, data: ImageData, folder: Path
) -> dict[str, float]:
    """Bits per dimension of a split of the data, with progress; the curve of the terms goes to ``bound_terms``."""
    samples = data.split(likelihood.split)

    def encode(batch: Mapping[str, Tensor]) -> tuple[Tensor, Condition | None]:
        there = {name: part.to(model.device) for name, part in batch.items()}
        return model.autoencoder.encode(there["x"]), model.conditioning(there)

    schedule, training = model.denoiser.schedule, model.training
    total = likelihood.calls(schedule, likelihood.count(samples))
    model.eval()
    with tqdm(total=total, desc="likelihood", unit="call", dynamic_ncols=True) as bar:
        numbers, terms = likelihood(model.denoiser, samples, encode, model.autoencoder.levels, bar.update)
    model.train(training)
    if terms is not None:
        rows = [f"{k},{bits:.8g}" for k, bits in enumerate(terms.tolist())]
        write_text(folder / f"{TERMS}.csv", "\n".join(["k,bits_per_dim", *rows]) + "\n")
        if importlib.util.find_spec("matplotlib") is not None:
            plot_bound_terms(terms).savefig(folder / f"{TERMS}.png", dpi=120)
    return numbers


def protocol(cfg: DictConfig, metrics: GenerationMetrics, data: ImageData) -> dict[str, Any]:
    """All that the numbers depend on beside the model: equal protocols can be ranked."""
    sampler = OmegaConf.to_container(cfg.sampler, resolve=True)
    assert isinstance(sampler, dict)
    settings = {str(key): value for key, value in sampler.items() if key != "_target_"}
    return {
        **metrics.protocol(),
        "data": data.fingerprint,
        "sampler": sampler["_target_"].rpartition(".")[2],
        **settings,
        "guidance": portable(OmegaConf.to_container(cfg.guidance, resolve=True)),
        "variance": cfg.prediction.variance,
        "resize": "none",
        "seed": cfg.seed,
        "precision": str(cfg.trainer.precision),
    }


def headline(numbers: Mapping[str, float]) -> float:
    """The number that sweeps minimise: the first there is of FID, bits/dim and the validation loss."""
    return next(numbers[name] for name in ("fid", "bits_per_dim", "bits_per_dim_ode", "val/loss") if name in numbers)


def summarise(folder: Path) -> None:
    """What a sweep of evaluations says in the end: a table, and FID by network evaluations where these differ."""
    found = report.jobs_of(folder, "metrics.json")
    names = [name for name in COLUMNS if any(name in content["metrics"] for content in found.values())]
    cells = {job: [f"{content['metrics'].get(name, math.nan):.4g}" for name in names] for job, content in found.items()}
    lines = [",".join(row) for row in (["job", *names], *([job, *values] for job, values in cells.items()))]
    write_text(folder / "results.csv", "\n".join(lines) + "\n")
    print(f"\n{report.matrix(names, cells)}\n\n  {report.shown(folder / 'results.csv')}")
    curves: dict[str, list[tuple[float, float]]] = {}
    for content in found.values():
        if {"fid", "network_evaluations"} <= set(content["metrics"]):
            point = content["metrics"]["network_evaluations"], content["metrics"]["fid"]
            curves.setdefault(content["protocol"]["sampler"], []).append(point)
    if any(len(points) > 1 for points in curves.values()) and importlib.util.find_spec("matplotlib") is not None:
        plot_by_evaluations(curves, "FID").savefig(folder / "fid.png", dpi=120)
        print(f"  {report.shown(folder / 'fid.png')}")
