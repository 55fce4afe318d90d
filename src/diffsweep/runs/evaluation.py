"""Evaluation of a trained model: its samples are drawn and measured, and the likelihood of data under it."""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffsweep.adaptation import own_settings
from diffsweep.conditioning import mean_agreement
from diffsweep.configuration.build import build, build_likelihood, build_metrics, precision_in_words
from diffsweep.configuration.stage_nodes import portable
from diffsweep.datasets import Batch, ImageData, joined_rows
from diffsweep.diffusion import Condition, Stream, straightness
from diffsweep.errors import UserError
from diffsweep.files import write_text
from diffsweep.layers import evaluating
from diffsweep.layers.distributed import gathered, is_first
from diffsweep.metric_table import HEADLINES, metric
from diffsweep.metrics import GenerationMetrics, Likelihood
from diffsweep.metrics.copies import searched
from diffsweep.models import DiffusionModel, Model, SelfMeasured
from diffsweep.plots import plot_bound_terms
from diffsweep.progress import ProgressMeter, tracked
from diffsweep.runs import report
from diffsweep.runs.batch_that_fits import batch_that_fits
from diffsweep.runs.cached import measure_cache
from diffsweep.runs.duels import duels_protocol, fights_duels, measure_duels
from diffsweep.tasks.drawing import Drawn, draw_for

TERMS = "bound_terms"
PATHS, STEPS_OF_A_PATH = 256, 16  # of the straightness
SHOWN = 100  # samples whose images are kept for pictures
OF_PATHS = ("data", "guidance", "conditioning", "seed", "precision")  # settings that the straightness depends on
TOO_FEW = "too_few_samples"  # key of the protocol with the names of metrics that mean nothing of so few samples


class Measured(NamedTuple):
    """A record of the metrics of a model by name, and of the samples that were drawn for them; None if none were.

    Attributes:
        numbers: the metrics by their names in ``metrics.json``.
        drawn: the first samples, at most a hundred, and what drawing all of them has cost.
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
    numbers = {**model.measure(data, folder, metrics), **_of_average(model)}
    own = {"model": cfg.choices.model, "data": data.fingerprint, "seed": cfg.seed}
    protocols = {"protocol": {**own, **(metrics.protocol() if metrics is not None else {})}}
    report.write_metrics(folder / "metrics.json", numbers, protocols)
    return Measured(numbers, None)


def measure_diffusion(cfg: DictConfig, model: DiffusionModel, data: ImageData, folder: Path) -> Measured:
    """Measure the samples of a diffusion model and the likelihood of data under it.

    Either is left out if the configuration has ``metrics=none`` or ``likelihood=none``. Of a flow the straightness is
    measured with the samples, and of samples that reuse features their distance from those that do not
    (:func:`~diffsweep.runs.cached.measure_cache`). ``metrics.json`` and the terms of a likelihood bound are written
    into the folder. A model that has learned from preferences is compared with its reference
    (:func:`~diffsweep.runs.duels.measure_duels`).

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
    each: Batch = {}
    if metrics is not None:
        for warning in metrics.warnings() if is_first() else ():
            print(f"warning: {warning}")
        drawn, each = draw_and_keep(model, metrics, data, cfg.seed)
    if not is_first():
        return Measured({}, None)
    if metrics is not None and drawn is not None:
        count = metrics.num_samples
        speed = {"images_per_second": count / drawn.seconds, "network_evaluations": drawn.evaluations}
        numbers.update(metrics.compare(each["metrics"], data), **mean_agreement(each["agreement"]), **speed)
        if (real := numbers.get("real_samples", count)) < count:
            print(
                f"warning: the data have only {real:.0f} real samples to put in the place of {count} generated "
                f"ones, and FID and IS depend on the number; num_samples={real:.0f} compares equal numbers"
            )
        few = [name for name in metrics.too_few(metrics.num_samples) if name in numbers]
        labelled = {TOO_FEW: few} if few else {}
        protocols["protocol"] = settings = protocol(cfg, metrics, data) | labelled
        if model.feature_cache is not None:
            found_of_cache, count = measure_cache(model, drawn, cfg.seed, metrics.batch_size)
            numbers.update(found_of_cache)
            made = {name: value for name, value in settings.items() if name not in (*metrics.protocol(), TOO_FEW)}
            protocols["cache_protocol"] = {"samples": count, **made}
        if model.denoiser.schedule.straight:
            found_of_paths, own = measure_straightness(model, data, metrics, cfg.seed)
            numbers.update(found_of_paths)
            protocols["straightness_protocol"] = {**own, **{name: settings[name] for name in OF_PATHS}}
    if likelihood is not None:
        numbers.update(measure_likelihood(likelihood, model, data, folder))
        protocols["likelihood_protocol"] = {**likelihood.protocol(), "data": data.fingerprint, "levels": data.levels}
    if fights_duels(model):
        numbers.update(measure_duels(model, data, cfg.seed, folder))
        protocols["duels_protocol"] = duels_protocol(model, data, cfg.seed)
    numbers |= _of_average(model)
    if protocols:
        report.write_metrics(folder / "metrics.json", numbers, protocols)
    return Measured(numbers, drawn, few)


def draw_and_keep(
    model: DiffusionModel, metrics: GenerationMetrics, data: ImageData, seed: int
) -> tuple[Drawn | None, Batch]:
    """Draw samples in batches, and return the first of them and the numbers of each sample that metrics are made of.

    A batch is dropped when its numbers are computed, so that few samples are in memory. All processes must call it; the
    first one gets the numbers of all samples, and the others nothing.

    Args:
        model: the model in evaluation mode.
        metrics: the metrics, whose number of samples is drawn.
        data: the dataset that they are compared with.
        seed: the seed of the samples.

    Returns:
        The first samples with what was requested of them; and the numbers of all, in their order: ``metrics``, as
        :meth:`~diffsweep.metrics.streamed.SampleMetrics.of_each` returns them, and ``agreement``, those of
        :meth:`~diffsweep.models.sampled.SampledModel.agreement_of_each`.
    """
    count, first = metrics.num_samples, torch.arange(min(SHOWN, metrics.num_samples))
    chosen = searched(count, data)

    def keep(rows: Tensor, x: Tensor, request: Batch) -> Batch:
        of_metrics = metrics.of_each(x, request, torch.isin(rows, chosen), data)
        agreement = model.agreement_of_each(x, request)
        return {"metrics": of_metrics, "agreement": agreement, "shown": x[rows < len(first)]}

    size = metrics.drawn_at_once or batch_that_fits(model, data, count)
    used = draw_for(model, count, seed, size, keep, data)
    request = model.request_for(first, data.deferred("val"))
    metrics.share_real(data, metrics.splits(request))
    parts = gathered(used.parts)
    if not is_first():
        return None, {}
    each = joined_rows(parts)
    return Drawn(each.pop("shown"), used.seconds, used.evaluations, request, used.partial), each


def _of_average(model: Model) -> dict[str, float]:
    """Return the relative error of the profile of the average that ``ema`` requested; nothing without the key."""
    return {} if model.average is None else {"ema_error": model.average.error}


def measure_straightness(
    model: DiffusionModel, data: ImageData, metrics: GenerationMetrics, seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the straightness of the paths along which samples form, with its standard error, and its protocol.

    It is the mean of :func:`~diffsweep.diffusion.straightness` over the paths of the first samples, from pure noise to
    data, by the guided denoiser; progress is shown. The sampler's steps do not matter.

    Args:
        model: a diffusion model with a straight schedule, in evaluation mode.
        data: the dataset, from whose held-out samples some conditions come.
        metrics: the metrics, whose number of samples is the most that are measured, and whose batches are taken.
        seed: the seed of the noise.

    Returns:
        ``straightness`` and ``straightness_se`` by name; and the number of paths and of steps on each.
    """
    count = min(metrics.num_samples, PATHS)
    batches = torch.arange(count).split(metrics.batch_size)
    parts = []
    with torch.no_grad(), evaluating(model):
        denoiser = model.guided(model.sampler)
        for indices in tracked(batches, "straightness", "batch"):
            noise = model.noise_of(indices, seed)
            eps = noise.normal(*model.autoencoder.shape, stream=Stream.PRIOR, dtype=model.sample_type)
            _, cond = model.request(indices, data.deferred("val"))
            parts.append(straightness(denoiser, eps, model.completed(cond, noise), STEPS_OF_A_PATH).cpu())
    each = torch.cat(parts).double()
    numbers = {"straightness": float(each.mean()), "straightness_se": float(each.std()) / math.sqrt(count)}
    return numbers, {"paths": count, "steps_of_a_path": STEPS_OF_A_PATH}


def measure_likelihood(
    likelihood: Likelihood, model: DiffusionModel, data: ImageData, folder: Path
) -> dict[str, float]:
    """Return the bits per dimension of a split of the data under a model, with their standard errors, by name.

    It is computed in float32 at least, whatever the precision of the run, so that numbers of runs compare; weights of a
    narrower type keep their values. Progress is shown. If the estimate is a variational bound, its terms are written
    into the folder, as ``bound_terms.csv`` and, with matplotlib, ``bound_terms.png``.

    Args:
        likelihood: the estimate and its settings, such as the split.
        model: the diffusion model.
        data: the dataset.
        folder: where the terms are written.
    """
    samples = data.split(likelihood.split)

    def encode(batch: Batch) -> tuple[Tensor, Condition | None]:
        return model.autoencoder.encode(batch["x"].to(model.device)), model.condition_of(batch)

    total = likelihood.calls(model.denoiser.schedule, likelihood.count(samples))
    with evaluating(model), model.computing_exactly(), ProgressMeter("likelihood", total, "call") as progress:
        numbers, terms = likelihood(model.denoiser, samples, encode, model.autoencoder.levels, progress.update)
    if terms is not None:
        rows = ["k,bits_per_dim", *(f"{k},{bits:.8g}" for k, bits in enumerate(terms.tolist()))]
        write_text(folder / f"{TERMS}.csv", "\n".join(rows) + "\n")
        if importlib.util.find_spec("matplotlib") is not None:
            plot_bound_terms(terms).savefig(folder / f"{TERMS}.png", dpi=120)
    return numbers


def protocol(cfg: DictConfig, metrics: GenerationMetrics, data: ImageData) -> dict[str, Any]:
    """Return the settings, besides the model, that the metrics of samples depend on, by name.

    They are those of the metrics, data, sampler, guidance, conditioning, adaptation, variance, seed and precision, and
    the feature cache, if any. Numbers of equal protocols can be compared.
    """
    sampler: Any = OmegaConf.to_container(cfg.sampler, resolve=True)
    settings = {str(key): value for key, value in sampler.items() if key != "_target_"}
    cached = build(cfg, "feature_cache") is not None
    cache = {"feature_cache": portable(OmegaConf.to_container(cfg.feature_cache, resolve=True))} if cached else {}
    own = own_settings(portable(OmegaConf.to_container(cfg.adaptation, resolve=True)))
    return {
        **metrics.protocol(),
        "data": data.fingerprint,
        "sampler": sampler["_target_"].rpartition(".")[2],
        **settings,
        "guidance": portable(OmegaConf.to_container(cfg.guidance, resolve=True)),
        "conditioning": OmegaConf.to_container(cfg.conditioning, resolve=True),
        **({"adaptation": own} if own else {}),
        **cache,
        "variance": cfg.prediction.variance,
        "resize": "none",
        "seed": cfg.seed,
        "precision": precision_in_words(cfg),
    }


def headline(numbers: Mapping[str, float], name: str | None = None) -> float:
    """Return the number by which sweeps and searches compare runs.

    Args:
        numbers: those that were measured.
        name: of the number, as ``optimized_metric`` gives it; None for the first of HEADLINES that was measured. These
            are FID (for clips their own distance), bits/dim, a classifier's cross-entropy, the FID of reconstructions
            and the validation loss. If none was measured, the result is that of the first number as it is minimised,
            such as the negative win rate.

    Raises:
        UserError: no number of this name was measured.
    """
    if name is not None and name not in numbers:
        raise UserError(f"optimized_metric={name} was not measured; this run has {', '.join(numbers)}")
    if (known := next((known for known in ([name] if name else HEADLINES) if known in numbers), None)) is not None:
        return numbers[known]
    first = next(iter(numbers))
    return metric(first).shortfall(numbers[first])
