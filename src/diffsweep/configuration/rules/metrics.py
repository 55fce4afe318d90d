"""Rules on metrics, whose features are of images or clips of certain sizes."""

from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, rule


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
