"""Evaluation of a trained model: its samples are drawn and measured, and the likelihood of data under it."""

import importlib.util
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffsweep import shell
from diffsweep.comparison import summary
from diffsweep.comparison.tables import matrix
from diffsweep.configuration.build import build_likelihood, build_metrics
from diffsweep.configuration.stage_nodes import portable
from diffsweep.datasets import Batch, ImageData
from diffsweep.diffusion import Condition
from diffsweep.errors import UserError
from diffsweep.files import write_text
from diffsweep.layers import evaluating
from diffsweep.layers.distributed import is_first
from diffsweep.metric_table import DISTANCES, HEADLINES, METRICS, metric
from diffsweep.metrics import GenerationMetrics, Likelihood
from diffsweep.models import DiffusionModel, Model, SelfMeasured
from diffsweep.plots import plot_bound_terms, plot_by_evaluations, plot_tradeoff
from diffsweep.progress import ProgressMeter
from diffsweep.runs import report
from diffsweep.tasks.sampling import Drawn, draw, joined

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Metrics = Mapping[str, float]
Jobs = Mapping[str, Any]  # the metrics.json of each job of a sweep, by its name
TERMS = "bound_terms"
TOO_FEW = "too_few_samples"  # key of the protocol with the names of metrics that mean nothing of so few samples


class Measured(NamedTuple):
    """A record of the metrics of a model by name, and of the samples that were drawn for them; None if none were.

    Attributes:
        numbers: the metrics by their names in ``metrics.json``.
        drawn: the samples.
        few: the names of metrics for which the samples are too few.
    """

    numbers: dict[str, float]
    drawn: Drawn | None
    few: Sequence[str] = ()


def measure(cfg: DictConfig, model: Model, data: ImageData, folder: Path) -> Measured:
    """Measure a trained model, and write ``metrics.json``, pictures and tables into a folder.

    A diffusion model is measured by :func:`measure_diffusion`, any other model (autoencoder, classifier) by its own
    method ``measure``.

    Args:
        cfg: the run's configuration, which chooses the metrics.
        model: the model in evaluation mode, with the weights to be measured.
        data: the dataset.
        folder: where the files are written.
    """
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
    """Measure the samples of a diffusion model and the likelihood of data under it.

    Either is left out if the configuration has ``metrics=none`` or ``likelihood=none``. ``metrics.json`` and the terms
    of a likelihood bound are written into the folder.

    Of several processes (ranks) each draws a share of the samples and computes a share of the features, also of those
    of real data; the first one compares them, and measures the likelihood. The others return no numbers.

    Args:
        cfg: the run's configuration.
        model: the model in evaluation mode, with the weights to be measured.
        data: the dataset that samples are compared with and whose likelihood is measured.
        folder: where the files are written.
    """
    metrics, likelihood = build_metrics(cfg), build_likelihood(cfg)
    numbers: dict[str, float] = {}
    protocols: dict[str, Any] = {}
    drawn, few = None, []
    if metrics is not None:
        for warning in metrics.warnings() if is_first() else ():
            print(f"warning: {warning}")
        drawn = draw(model, metrics.num_samples, cfg.seed, metrics.batch_size, data)
        found = metrics.shared(drawn.x, data, drawn.request)
        drawn = joined(drawn, metrics.num_samples, metrics.batch_size, model, data)
    if not is_first():
        return Measured({}, None)
    if metrics is not None and drawn is not None:
        speed = {"images_per_second": len(drawn.x) / drawn.seconds, "network_evaluations": drawn.evaluations}
        numbers.update(metrics(drawn.x, data, drawn.request, found), **speed)
        if (real := numbers.get("real_samples", len(drawn.x))) < len(drawn.x):
            print(
                f"warning: the data have only {real:.0f} real samples to put in the place of {len(drawn.x)} generated "
                f"ones, and FID and IS depend on the number; num_samples={real:.0f} compares equal numbers"
            )
        few = [name for name in metrics.too_few(metrics.num_samples) if name in numbers]
        labelled = {TOO_FEW: few} if few else {}
        protocols["protocol"] = protocol(cfg, metrics, data) | labelled
    if likelihood is not None:
        numbers.update(measure_likelihood(likelihood, model, data, folder))
        protocols["likelihood_protocol"] = {**likelihood.protocol(), "data": data.fingerprint, "levels": data.levels}
    if protocols:
        report.write_metrics(folder / "metrics.json", numbers, protocols)
    return Measured(numbers, drawn, few)


def measure_likelihood(
    likelihood: Likelihood, model: DiffusionModel, data: ImageData, folder: Path
) -> dict[str, float]:
    """Return the bits per dimension of a split of the data under a model, with their standard errors, by name.

    Progress is shown. If the estimate is a variational bound, its terms are written into the folder, as
    ``bound_terms.csv`` and, with matplotlib, ``bound_terms.png``.

    Args:
        likelihood: the estimate and its settings, such as the split.
        model: the diffusion model.
        data: the dataset.
        folder: where the terms are written.
    """
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
    """Return the settings, besides the model, that the metrics of samples depend on, by name.

    They are those of the metrics, data, sampler, guidance, conditioning, variance, seed and precision. Numbers of equal
    protocols can be compared.
    """
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


def headline(numbers: Mapping[str, float], name: str | None = None) -> float:
    """Return the number by which sweeps and searches compare runs.

    Args:
        numbers: those that were measured.
        name: of the number, as ``optimized_metric`` gives it; None for the first of HEADLINES that was measured. These
            are FID (for clips their own distance), bits/dim, a classifier's cross-entropy, the FID of reconstructions
            and the validation loss.

    Raises:
        UserError: no number of this name was measured.
    """
    if name is not None and name not in numbers:
        raise UserError(f"optimized_metric={name} was not measured; this run has {', '.join(numbers)}")
    return next(numbers[known] for known in ([name] if name is not None else HEADLINES) if known in numbers)


def summarise(folder: Path) -> None:
    """Summarise a sweep of ``evaluate.py``, a set of jobs with varied settings, by a table and figures in its folder.

    The table ``results.csv`` has a row for each finished job, and is printed. With matplotlib the functions in FIGURES
    draw figures over the keys that the sweep varies.

    Args:
        folder: the folder of the sweep, with a subfolder for each job.

    Raises:
        UserError: no job has finished.
    """
    found = report.jobs_of(folder, "metrics.json")
    names = [name for name in METRICS if any(name in content["metrics"] for content in found.values())]
    cells = {job: [f"{content['metrics'].get(name, math.nan):.4g}" for name in names] for job, content in found.items()}
    lines = [",".join(row) for row in (["job", *names], *([job, *values] for job, values in cells.items()))]
    write_text(folder / "results.csv", "\n".join(lines) + "\n")
    print(f"\n{matrix(names, cells)}\n\n  {shell.shown(folder / 'results.csv')}")
    if importlib.util.find_spec("matplotlib") is not None:
        for draw_figure in FIGURES:
            if (named := draw_figure(found)) is not None:
                name, figure = named
                figure.savefig(folder / name, dpi=120)
                print(f"  {shell.shown(folder / name)}")
    print(f"\n{summary.summarise(folder)}")


def distance_in(found: Jobs) -> str:
    """Return the name of the distance by which jobs of a sweep are compared: ``fid``, ``fvd`` or ``clip_fd``.

    It is the first of these (DISTANCES) in any job's ``metrics.json``, which ``found`` has by the job's name, else
    ``fid``.
    """
    return next((name for name in DISTANCES if any(name in content["metrics"] for content in found.values())), "fid")


def distance_by_evaluations(found: Jobs) -> "tuple[str, Figure] | None":
    """Return a file name and a figure of FID (or another distance) by network evaluations; None if these do not vary.

    Jobs that differ in ``sampler.steps`` alone form a curve.

    Args:
        found: the contents of each job's ``metrics.json``, by the job's name.
    """
    distance = distance_in(found)
    curves = curves_over("sampler.steps", found, lambda content: content["metrics"].get("network_evaluations"))
    points = {name: [(x, metrics[distance]) for x, metrics in curve] for name, curve in curves.items()}
    return (f"{distance}.png", plot_by_evaluations(points, metric(distance).label)) if points else None


def tradeoff(found: Jobs) -> "tuple[str, Figure] | None":
    """Return a file name and a figure of fidelity against diversity over the strength of guidance, if it varies.

    The strength is a numeric key of ``guidance``; if several vary, the one with the most values. Jobs that differ in it
    alone form a curve. The result is None if none varies.

    Args:
        found: the contents of each job's ``metrics.json``, by the job's name.
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
    """Return curves of sorted points (x, metrics) by name: one for each combination of the keys other than ``key``.

    Metrics are means over seeds. Jobs without the distance by which they are compared are left out. The result is empty
    if no curve varies x.

    Args:
        key: the configuration key that x belongs to, such as ``sampler.steps``; it is removed from the jobs' names.
        found: the contents of each job's ``metrics.json``, by the job's name.
        x: returns x from a job's contents, or None to leave the job out.
    """
    distance = distance_in(found)
    of_seeds: dict[str, dict[float, list[Metrics]]] = {}
    for job, content in found.items():
        if distance in content["metrics"] and (at := x(content)) is not None:
            name = re.sub(rf"(^|_)({re.escape(key)}|seed)-[^_]*", "", job).strip("_") or content["protocol"]["sampler"]
            of_seeds.setdefault(name, {}).setdefault(at, []).append(content["metrics"])
    if all(len(points) == 1 for points in of_seeds.values()):
        return {}
    return {name: [(at, _mean(points[at])) for at in sorted(points)] for name, points in of_seeds.items()}


def _mean(several: Sequence[Metrics]) -> Metrics:
    """Return the mean of each metric that all of several jobs have."""
    shared = [name for name in several[0] if all(name in metrics for metrics in several)]
    return {name: statistics.fmean(metrics[name] for metrics in several) for name in shared}


FIGURES: tuple[Callable[[Jobs], "tuple[str, Figure] | None"], ...] = (distance_by_evaluations, tradeoff)
