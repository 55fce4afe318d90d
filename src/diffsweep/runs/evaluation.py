"""Evaluation of a trained model: its samples are drawn and measured, and the likelihood of data under it."""

import importlib.util
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffsweep import shell
from diffsweep.configuration.build import build_likelihood, build_metrics
from diffsweep.configuration.stage_nodes import portable
from diffsweep.datasets import Batch, ImageData
from diffsweep.diffusion import Condition
from diffsweep.files import write_text
from diffsweep.layers import evaluating
from diffsweep.metrics import GenerationMetrics, Likelihood
from diffsweep.models import DiffusionModel, Model, SelfMeasured
from diffsweep.plots import DISTANCES, LABELS, plot_bound_terms, plot_by_evaluations, plot_tradeoff
from diffsweep.progress import ProgressMeter
from diffsweep.runs import report
from diffsweep.tasks.sampling import Drawn, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Metrics = Mapping[str, float]
Jobs = Mapping[str, Any]  # the metrics.json of each job of a sweep, by its name
TERMS = "bound_terms"
COLUMNS = (
    "fid",
    "fvd",
    "clip_fd",
    "frame_fid",
    "is",
    "clip_is",
    "frame_is",
    "kid",
    "precision",
    "recall",
    "class_accuracy",
    "digit_confidence",
    "digit_found",
    "motion_error",
    "speed_variation",
    "bounce_violations",
    "caption_accuracy",
    "caption_accuracy_held_out",
    "copy_ratio",
    "accuracy",
    "cross_entropy",
    "psnr",
    "ssim",
    "rfid",
    "rfvd",
    "rclip_fd",
    "rframe_fid",
    "bits_per_dim",
    "bits_per_dim_ode",
    "network_evaluations",
    "images_per_second",
)
HEADLINES = (
    *DISTANCES,
    "bits_per_dim",
    "bits_per_dim_ode",
    "cross_entropy",
    *(f"r{distance}" for distance in DISTANCES),
    "val/loss",
)


class Measured(NamedTuple):
    """The numbers of a model, and the measured samples, if any."""

    numbers: dict[str, float]
    drawn: Drawn | None


def measure(cfg: DictConfig, model: Model, data: ImageData, folder: Path) -> Measured:
    """Measure a model, and write ``metrics.json``, pictures and tables into a folder."""
    if isinstance(model, DiffusionModel):
        return measure_diffusion(cfg, model, data, folder)
    assert isinstance(model, SelfMeasured)  # a model draws samples, or has measurements of its own
    metrics = build_metrics(cfg)
    numbers = model.measure(data, folder, metrics)
    own = {"model": cfg.choices.model, "data": data.fingerprint, "seed": cfg.seed}
    protocols = {"protocol": {**own, **(metrics.protocol() if metrics is not None else {})}}
    report.write_metrics(folder / "metrics.json", numbers, protocols)
    return Measured(numbers, None)


def measure_diffusion(cfg: DictConfig, model: DiffusionModel, data: ImageData, folder: Path) -> Measured:
    """Measure samples and the likelihood of data, as far as the configuration has metrics and a likelihood.

    ``metrics.json`` and the curve of the bound's terms go into a folder.
    """
    metrics, likelihood = build_metrics(cfg), build_likelihood(cfg)
    numbers: dict[str, float] = {}
    protocols: dict[str, Any] = {}
    drawn = None
    if metrics is not None:
        for warning in metrics.warnings():
            print(f"warning: {warning}")
        drawn = draw(model, metrics.num_samples, cfg.seed, metrics.batch_size, data)
        speed = {"images_per_second": len(drawn.x) / drawn.seconds, "network_evaluations": drawn.evaluations}
        numbers.update(metrics(drawn.x, data, drawn.request), **speed)
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
    """Measure bits per dimension of a split of the data, with progress, and write the terms of a bound as a curve."""
    samples = data.split(likelihood.split)

    def encode(batch: Batch) -> tuple[Tensor, Condition | None]:
        return model.autoencoder.encode(batch["x"].to(model.device)), model.condition_of(batch)

    schedule = model.denoiser.schedule
    total = likelihood.calls(schedule, likelihood.count(samples))
    with evaluating(model), ProgressMeter("likelihood", total, "call") as progress:
        numbers, terms = likelihood(model.denoiser, samples, encode, model.autoencoder.levels, progress.update)
    if terms is not None:
        rows = [f"{k},{bits:.8g}" for k, bits in enumerate(terms.tolist())]
        write_text(folder / f"{TERMS}.csv", "\n".join(["k,bits_per_dim", *rows]) + "\n")
        if importlib.util.find_spec("matplotlib") is not None:
            plot_bound_terms(terms).savefig(folder / f"{TERMS}.png", dpi=120)
    return numbers


def protocol(cfg: DictConfig, metrics: GenerationMetrics, data: ImageData) -> dict[str, Any]:
    """Return all that the numbers depend on beside the model; numbers of equal protocols can be compared."""
    sampler = OmegaConf.to_container(cfg.sampler, resolve=True)
    assert isinstance(sampler, dict)
    settings = {str(key): value for key, value in sampler.items() if key != "_target_"}
    return {
        **metrics.protocol(),
        "data": data.fingerprint,
        "sampler": sampler["_target_"].rpartition(".")[2],
        **settings,
        "guidance": portable(OmegaConf.to_container(cfg.guidance, resolve=True)),
        "conditioning": OmegaConf.to_container(cfg.conditioning, resolve=True),
        "variance": cfg.prediction.variance,
        "resize": "none",
        "seed": cfg.seed,
        "precision": str(cfg.trainer.precision),
    }


def headline(numbers: Mapping[str, float]) -> float:
    """Return the number that sweeps minimise: the first of HEADLINES that was measured.

    These are FID (for clips their own distance), bits/dim, a classifier's cross-entropy, the FID of reconstructions and
    the validation loss.
    """
    return next(numbers[name] for name in HEADLINES if name in numbers)


def summarise(folder: Path) -> None:
    """Summarise a sweep of evaluations: print and write a table, and draw figures over the keys that it varies."""
    found = report.jobs_of(folder, "metrics.json")
    names = [name for name in COLUMNS if any(name in content["metrics"] for content in found.values())]
    cells = {job: [f"{content['metrics'].get(name, math.nan):.4g}" for name in names] for job, content in found.items()}
    lines = [",".join(row) for row in (["job", *names], *([job, *values] for job, values in cells.items()))]
    write_text(folder / "results.csv", "\n".join(lines) + "\n")
    print(f"\n{report.matrix(names, cells)}\n\n  {shell.shown(folder / 'results.csv')}")
    if importlib.util.find_spec("matplotlib") is not None:
        for draw_figure in FIGURES:
            if (named := draw_figure(found)) is not None:
                name, figure = named
                figure.savefig(folder / name, dpi=120)
                print(f"  {shell.shown(folder / name)}")


def distance_in(found: Jobs) -> str:
    """Return the distance by which jobs are compared: the first of DISTANCES that one of them has, by default FID."""
    return next((name for name in DISTANCES if any(name in content["metrics"] for content in found.values())), "fid")


def distance_by_evaluations(found: Jobs) -> "tuple[str, Figure] | None":
    """Return the figure of the distance by network evaluations and its name, if the number of steps is varied."""
    distance = distance_in(found)
    curves = curves_over("sampler.steps", found, lambda content: content["metrics"].get("network_evaluations"))
    points = {name: [(x, metrics[distance]) for x, metrics in curve] for name, curve in curves.items()}
    return (f"{distance}.png", plot_by_evaluations(points, LABELS[distance])) if points else None


def tradeoff(found: Jobs) -> "tuple[str, Figure] | None":
    """Return the figure of fidelity against diversity and its name, if a number of the guidance is varied.

    If several are, it is over the one with the most values.
    """
    score = DISTANCES[distance_in(found)]

    def numbers(content: Any) -> dict[str, float]:
        measured = {score, "precision", "recall"} <= content["metrics"].keys()
        guidance = content["protocol"].get("guidance", {}) if measured else {}
        return {key: value for key, value in guidance.items() if type(value) in (int, float)}

    values: dict[str, set[float]] = {}
    for content in found.values():
        for key, value in numbers(content).items():
            values.setdefault(key, set()).add(value)
    key = max(values, key=lambda key: len(values[key]), default="")
    curves = curves_over(f"guidance.{key}", found, lambda content: numbers(content).get(key))
    return ("tradeoff.png", plot_tradeoff(curves, f"guidance.{key}")) if curves else None


def curves_over(key: str, found: Jobs, x: Callable[[Any], float | None]) -> dict[str, list[tuple[float, Metrics]]]:
    """Return the jobs as sorted points (x, metrics), in a curve for each combination of the keys other than ``key``.

    Jobs without the distance by which they are compared are left out. The result is empty if no curve varies x.

    Args:
        key: the key of x.
        found: the jobs.
        x: returns x of a job's metrics.json, or None.
    """
    distance = distance_in(found)
    curves: dict[str, list[tuple[float, Metrics]]] = {}
    for job, content in found.items():
        if distance in content["metrics"] and (at := x(content)) is not None:
            name = re.sub(rf"(^|_){re.escape(key)}-[^_]*", "", job).strip("_") or content["protocol"]["sampler"]
            curves.setdefault(name, []).append((at, content["metrics"]))
    varied = any(len({at for at, _ in curve}) > 1 for curve in curves.values())
    return {name: sorted(curve, key=lambda point: point[0]) for name, curve in curves.items()} if varied else {}


FIGURES: tuple[Callable[[Jobs], "tuple[str, Figure] | None"], ...] = (distance_by_evaluations, tradeoff)
