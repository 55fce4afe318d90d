"""Tables that commands print at their end, and the file ``metrics.json``."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffsweep import shell
from diffsweep.errors import UserError
from diffsweep.files import write_text
from diffsweep.metric_table import METRICS, metric
from diffsweep.metrics import identify

REAL = "real images in the place of samples"


def table(rows: Sequence[tuple[str, str, str]]) -> str:
    """Return rows of three texts (name, value, remark) as lines of aligned columns, with values flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"  {name:<{widths[0]}}  {value:>{widths[1]}}  {remark}".rstrip() for name, value, remark in rows)


def jobs_of(folder: Path, file: str) -> dict[str, Any]:
    """Return the contents of a JSON file of each finished job of a sweep, by the job's name, in the order of the jobs.

    Args:
        folder: the folder of the sweep, whose subfolders NUMBER_NAME are those of the jobs.
        file: the name of the file, such as ``metrics.json``.

    Raises:
        UserError: no job has the file.
    """
    paths = sorted(folder.glob(f"*/{file}"), key=lambda path: int(path.parent.name.partition("_")[0]))
    if not paths:
        raise UserError(f"no job of the sweep in {shell.shown(folder)} has finished")
    return {path.parent.name.partition("_")[2]: json.loads(path.read_text()) for path in paths}


def metric_rows(metrics: Mapping[str, float], few: Sequence[str] = ()) -> list[tuple[str, str, str]]:
    """Return rows (name, value, remark) of a printed table for the numbers of an evaluation.

    The rows have the order, names and formats of :data:`~diffsweep.metric_table.METRICS`. Numbers that are not in that
    table, such as those of a remark, have no row, nor do logged ones such as ``val/loss``. The remark has the value of
    real data in place of samples, if it was measured, and what a reader must know of the number.

    Args:
        metrics: the numbers by their names in ``metrics.json``.
        few: the names of those for which the samples are too few, which is in the remark.
    """
    rows = []
    for name, known in METRICS.items():
        if name in metrics and name != "network_evaluations" and "/" not in name:  # a remark of the speed; logged ones
            remarks = (
                "too few samples" if name in few else "",
                _error(name, metrics),
                _of_real_data(name, metrics),
                _of_degraded(name, metrics),
                _REMARKS.get(name, "").format_map(_Shown(metrics)),
            )
            rows.append((known.label, known.shown(metrics[name]), "; ".join(filter(None, remarks))))
    return rows


class _Shown(dict[str, float]):
    """The numbers that a remark names; one that was not measured is NaN, and ``levels`` lists accuracies by noise."""

    def __missing__(self, name: str) -> Any:
        return _by_noise(self) if name == "levels" else math.nan


def _of_real_data(name: str, metrics: Mapping[str, float]) -> str:
    """Return a remark with the value of real data in place of samples; empty if it was not measured."""
    real = metrics.get(f"{name}_real")
    count = f"{metrics['real_samples']:.0f} " if "real_samples" in metrics else ""
    label = f"{count}{REAL}" if name in _IN_PLACE else "real"
    return "" if real is None else f"{label} {metric(name).shown(real)}"


def _of_degraded(name: str, metrics: Mapping[str, float]) -> str:
    """Return a remark with the value of degraded images, before they are restored; empty if it was not measured."""
    value = metrics.get(f"{name}_degraded")
    return "" if value is None else f"degraded images {metric(name).shown(value)}"


def _error(name: str, metrics: Mapping[str, float]) -> str:
    """Return a remark with the interval or the standard error of a metric; empty if neither was measured."""
    ends = [metrics[end] for end in (f"{name}_low", f"{name}_high") if end in metrics]
    if ends:
        return f"95 % {' to '.join(metric(name).shown(end, unit=False) for end in ends)}"
    error = metrics.get(f"{name}_se")
    return "" if error is None else f"+- {metric(name).shown(error, unit=False)}"


_IN_PLACE = ("fid", "fvd", "clip_fd", "frame_fid", "precision", "recall")
_REMARKS = {
    "motion_error": "pixels from a path that the physics allows",
    "caption_accuracy": "colour and shape as requested, combinations of the training set",
    "caption_accuracy_held_out": "combinations that training never shows",
    "bits_per_dim": "at most",
    "accuracy": "{levels}",
    "psnr": "of held-out images",
    "inconsistency": "root mean square distance from what is known, in bins of 256",
    "rfid": "against the images themselves",
    "rfvd": "against the clips themselves",
    "rclip_fd": "of clips, against the clips themselves",
    "rframe_fid": "of frames, against the frames themselves",
    "kl": "nats, of the posterior of an image to N(0, I)",
    "codebook_usage": "of the codes, perplexity {perplexity:.1f}",
    "latent_std": "standard deviation over the training set, largest mean of a channel {latent_mean:.3g}",
    "cross_entropy": "nats, on held-out data",
    "copy_ratio": "distance to the training set over that of held-out images: about 1 is right, 0 is a copy",
    "straightness": "of the paths from noise to samples: 0 where one step of Euler's method is exact",
    "ema_error": "relative, of the average that was made of snapshots",
    "cache_error": "distance of samples from those without it, over their standard deviation: unrelated ones have 1.41",
    "partial_evaluations": "of the network evaluations, which reuse deep features",
    "images_per_second": "{network_evaluations:g} network evaluations each",
}


def _by_noise(metrics: Mapping[str, float]) -> str:
    """Return in words the accuracies of a classifier at some of the noise levels."""
    levels = {name.rpartition("_")[2]: value for name, value in metrics.items() if name.startswith("accuracy_t_")}
    shown = [level for level in ("0", "0.25", "0.45", "0.65") if level in levels]
    return "; ".join(f"{levels[level]:.1%} at t = {level}" for level in shown)


def write_metrics(path: Path, metrics: Mapping[str, float], protocols: Mapping[str, Mapping[str, Any]]) -> None:
    """Write ``metrics.json``: numbers with the protocols under which they were measured, each with a short hash.

    Numbers that are NaN or infinite, which JSON does not have, are named under ``not_finite`` in place of their values.

    Args:
        path: the file.
        metrics: the numbers by name.
        protocols: the settings that the numbers depend on, under a name such as ``protocol``; its hash is
            ``protocol_id``.
    """
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    content: dict[str, Any] = {"metrics": {name: value for name, value in metrics.items() if name not in bad}}
    if bad:
        print(f"warning: not finite, and left out of {shell.shown(path)}: {', '.join(bad)}")
        content["not_finite"] = bad
    for name, protocol in protocols.items():
        content |= {name: dict(protocol), f"{name}_id": identify(dict(protocol))}
    write_text(path, json.dumps(content, indent=2) + "\n")


def add_cost(path: Path, seconds: float, parameters: int) -> None:
    """Add to ``metrics.json`` what a run has cost; nothing where the run has measured nothing.

    Args:
        path: of the file.
        seconds: from the start of the run to its end, with its evaluation.
        parameters: of its model that are trained.
    """
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        cost = {"seconds": round(seconds, 1), "parameters": parameters}
        write_text(path, json.dumps({**content, "cost": cost}, indent=2) + "\n")
