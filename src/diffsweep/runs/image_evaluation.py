"""The command ``evaluate.py images=...``: metrics of images that other programs have made, without a run."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffsweep import pictures, shell
from diffsweep.comparison.records import EVALUATION
from diffsweep.configuration.build import build_metrics
from diffsweep.configuration.stage_nodes import run_key, stage_nodes
from diffsweep.errors import UserError
from diffsweep.files import write_text
from diffsweep.metric_table import metric
from diffsweep.metrics import GenerationMetrics
from diffsweep.metrics.extraction import Features
from diffsweep.metrics.reference_statistics import (
    SUFFIX,
    Statistics,
    has_statistics,
    hash_of,
    read_statistics,
    write_statistics,
)
from diffsweep.runs import report
from diffsweep.runs.evaluation import TOO_FEW, Measured, headline
from diffsweep.runs.image_sets import ImageSet


def evaluate_images(cfg: DictConfig) -> float | None:
    """Run ``evaluate.py images=...``: compare images with a reference, and return the number that sweeps compare.

    ``metrics.json`` with the protocol, ``evaluation.yaml`` (the configuration) and ``grid.png`` are written into the
    job's folder, and a table of the numbers is printed. With ``statistics=FILE.npz`` the means and covariances of the
    images' features are written; without a reference that is all, and the result is None.

    Args:
        cfg: a configuration of ``evaluate_images``.

    Raises:
        UserError: a place has no images, the metrics are of other images, or neither ``reference`` nor ``statistics``
            is given.
    """
    if cfg.reference is None and cfg.statistics is None:
        raise UserError("reference is missing: give a folder, or an .npz file of images or statistics (mu, sigma)")
    if cfg.statistics is not None and not str(cfg.statistics).endswith(SUFFIX):
        raise UserError(f"statistics={cfg.statistics}: statistics are written into an .npz file")
    images = ImageSet("images", cfg.images)
    against = None if cfg.reference is None else Path(cfg.reference)
    known = read_statistics(against) if against is not None and has_statistics(against) else None
    reference = _reference(cfg, known)
    metrics, channels = _metrics(cfg)  # after the places, since weights may be missing that take a download
    for each in (images, reference):
        if each is not None:
            each.channels = channels
    for warning in _noted(metrics, len(images), reference):
        print(f"warning: {warning}")
    fake = _extracted(metrics, images)
    if cfg.statistics is not None:
        write_statistics(Path(cfg.statistics), Statistics.of(fake))
        print(f"  statistics of {len(images)} images: {shell.shown(Path(cfg.statistics))}")
    if against is None:
        return None
    real = None if reference is None else _extracted(metrics, reference)
    if reference is not None and min(len(images), len(reference)) <= metrics.comparison.neighbours:
        raise UserError(f"at least {metrics.comparison.neighbours + 1} images of each kind are compared")
    numbers = metrics.named(metrics.comparison.all(fake, real, known))
    protocol = _protocol(metrics, len(images), reference, against if known is not None else None)
    of_real = None if reference is None else len(reference)
    few = [name for name in metrics.too_few(len(images), of_real) if name in numbers]
    protocol |= {TOO_FEW: few} if few else {}
    return _written(cfg, Path(cfg.paths.run_dir), Measured(numbers, None, few), protocol, images)


def _metrics(cfg: DictConfig) -> tuple[GenerationMetrics, int | None]:
    """Return the metrics, and the number of channels that they require; None if they take grey and colour."""
    if "_target_" not in cfg.metrics:
        raise UserError("metrics=none leaves nothing to measure; choose metrics=inception or digits")
    for path, node in stage_nodes(cfg):
        if node.run is None:
            raise UserError(
                f"{run_key(path, node)} is missing: metrics={cfg.choices.metrics} needs a trained model, which images "
                "alone do not choose; give the directory of its run, or use metrics=inception"
            )
    metrics = build_metrics(cfg)
    assert metrics is not None
    if metrics.shape is not None and len(metrics.shape) != 3:
        raise UserError(f"metrics={cfg.choices.metrics} measures clips, and images= has images; use metrics=inception")
    return metrics, None if metrics.shape is None else metrics.shape[0]


def _reference(cfg: DictConfig, known: Statistics | None) -> ImageSet | None:
    """Return the images of the reference; None if it has statistics without images, or is not given."""
    if cfg.reference is None:
        return None
    try:
        return ImageSet("reference", cfg.reference)
    except UserError:
        if known is None:
            raise
        return None


def _noted(metrics: GenerationMetrics, count: int, reference: ImageSet | None) -> list[str]:
    """Return warnings that the numbers are of few images, generated or real."""
    fewest, width = count if reference is None else min(count, len(reference)), metrics.features.num_features
    if fewest > width:
        return []
    name = metric(metrics.distance).label
    return [
        f"{name} is biased: {fewest} images cannot estimate the covariance of {width} features (it is singular), and "
        f"the bias grows as images get fewer; give more than {width}"
    ]


def _extracted(metrics: GenerationMetrics, images: ImageSet) -> Features:
    """Return the features of images, which must have the shape that the metrics require."""

    def checked() -> Any:
        for batch in images.batches(metrics.batch_size):
            wanted = metrics.shape or (None, None, None)
            if any(n not in (None, m) for n, m in zip(wanted, batch.shape[1:], strict=True)):
                raise UserError(
                    f"{images.key}: an image has the shape {tuple(batch.shape[1:])}, and these metrics measure images "
                    f"of {wanted}; use metrics=inception, which takes any"
                )
            yield batch

    return metrics.extract_batches(checked(), images.count(metrics.batch_size))


def _protocol(metrics: GenerationMetrics, count: int, reference: ImageSet | None, known: Path | None) -> dict[str, Any]:
    """Return the settings that the numbers depend on; the reference by hashes of its images and of its statistics."""
    protocol = metrics.protocol() | {"num_samples": count, "resize": "none"}
    del protocol["floor"]
    parts = [] if known is None else [f"statistics {hash_of(known)}"]
    parts += [] if reference is None else [f"{len(reference)} images {reference.fingerprint}"]
    return protocol | {"reference": " and ".join(parts)}


def _written(cfg: DictConfig, folder: Path, measured: Measured, protocol: dict[str, Any], images: ImageSet) -> float:
    """Write the numbers, the configuration and a grid, print what was measured, and return the headline."""
    report.write_metrics(folder / "metrics.json", measured.numbers, {"protocol": protocol})
    write_text(folder / EVALUATION, OmegaConf.to_yaml(cfg))
    grid = pictures.save_shown(pictures.grid, [images.first(100)], folder / "grid")
    print(f"\n{len(images)} images of {shell.shown(images.path)} against {cfg.reference}")
    print("\n" + report.table(report.metric_rows(measured.numbers, measured.few)) + "\n")
    for path in (folder / "metrics.json", folder / EVALUATION, *grid):
        print(f"  {shell.shown(path)}")
    return headline(measured.numbers, cfg.optimized_metric)
