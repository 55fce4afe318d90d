"""Rules on metrics, whose features are of images or clips of certain sizes."""

from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, rule
from diffsweep.configuration.spelling import nearest
from diffsweep.metric_table import METRICS
from diffsweep.models import DiffusionModel


@rule
def metrics_match_the_data(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the features of the metrics are for samples of another shape than the data have.

    Features of one shape are meaningless for another, and features of images are for clips.
    """
    shape, data = None if parts.metrics is None else parts.metrics.shape, parts.dataset
    if shape is None or (
        len(shape) == len(data.shape) and all(n in (None, m) for n, m in zip(shape, data.shape, strict=True))
    ):
        return None
    of_images = "metrics=classifier, whose features are of a classifier of these data"
    fitting = of_images if data.num_frames is None else "metrics=fvd, which measures clips of any size"
    return (
        f"metrics={cfg.choices.metrics} measures {'clips' if len(shape) == 4 else 'images'} of shape {shape}, and "
        f"dataset={cfg.choices.dataset} has {data.shape}; use {fitting}, or metrics=none"
    )


@rule
def clips_are_long_enough_for_metrics(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if clips of the data have fewer frames than the features of the metrics require."""
    frames = parts.dataset.num_frames
    if parts.metrics is None or frames is None or frames >= (least := parts.metrics.least_frames):
        return None
    return (
        f"metrics={cfg.choices.metrics} requires clips of at least {least} frames, and these have {frames}; use "
        f"dataset.num_frames={least}, or metrics=none"
    )


@rule
def optimized_metric_is_measured(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Refuse to compare runs by a number that they do not measure, or of which no value is better."""
    name = cfg.get("optimized_metric")
    ranked = [known for known, metric in METRICS.items() if metric.ranks and "/" not in known and known != "hours"]
    if name in (None, "val/loss"):
        return None
    if name not in ranked:
        near = nearest(name, ranked) or ";"
        return f"optimized_metric={name}: no such metric{near} it is one of {', '.join(ranked)}, val/loss"
    if name.startswith("bits_per_dim"):
        use = None if parts.likelihood is not None else "likelihood=bound"
    else:
        use = "metrics=digits" if parts.metrics is None and issubclass(parts.model, DiffusionModel) else None
    return use and f"optimized_metric={name} is not measured by this run; choose what measures it, such as {use}"
