"""Tables that commands print at their end, and the file ``metrics.json``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffsweep import shell
from diffsweep.errors import UserError
from diffsweep.files import write_text
from diffsweep.metrics import identify

REAL = "real images in the place of samples"


def table(rows: Sequence[tuple[str, str, str]]) -> str:
    """Return rows of three texts (name, value, remark) as lines of aligned columns, with values flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"  {name:<{widths[0]}}  {value:>{widths[1]}}  {remark}".rstrip() for name, value, remark in rows)


def matrix(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Return a table as text: a line of column names, and a line for each named row, aligned.

    Args:
        columns: the names of the columns.
        rows: by the name of each row, its cells, one for each column.
    """
    widths = [max(10, len(column), *(len(cells[i]) for cells in rows.values())) for i, column in enumerate(columns)]
    first = max(map(len, rows))
    lines = {"": columns, **rows}
    return "\n".join(
        f"  {name:<{first}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in lines.items()
    )


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


def metric_rows(metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Return rows (name, value, remark) of a printed table for the numbers of an evaluation, in a fixed order.

    The remark has the value of real data in place of samples, if it was measured. Numbers without a row of their own
    are left out.

    Args:
        metrics: the numbers by their names in ``metrics.json``.
    """

    def real(name: str, form: str, label: str = "real") -> str:
        return f"{label} {form.format(metrics[f'{name}_real'])}" if f"{name}_real" in metrics else ""

    remarks = {
        "fid": ("FID", "{:.3f}", real("fid", "{:.3f}", REAL)),
        "fvd": ("FVD", "{:.1f}", real("fvd", "{:.1f}", REAL)),
        "clip_fd": ("clip FD", "{:.3f}", real("clip_fd", "{:.3f}", REAL)),
        "frame_fid": ("frame FID", "{:.3f}", real("frame_fid", "{:.3f}", REAL)),
        "is": ("IS", "{:.3f}", real("is", "{:.3f}")),
        "clip_is": ("clip IS", "{:.3f}", real("clip_is", "{:.3f}")),
        "frame_is": ("frame IS", "{:.3f}", real("frame_is", "{:.3f}")),
        "precision": ("precision", "{:.3f}", real("precision", "{:.3f}", REAL)),
        "recall": ("recall", "{:.3f}", real("recall", "{:.3f}", REAL)),
        "kid": ("KID", "{:.5f}", ""),
        "class_accuracy": ("class accuracy", "{:.1%}", real("class_accuracy", "{:.1%}")),
        "digit_confidence": ("digit confidence", "{:.3f}", real("digit_confidence", "{:.3f}")),
        "digit_found": ("digit found", "{:.1%}", real("digit_found", "{:.1%}") or "of the frames"),
        "motion_error": (
            "motion error",
            "{:.3f}",
            f"pixels from a path that the physics allows; {real('motion_error', '{:.3f}')}",
        ),
        "speed_variation": ("speed variation", "{:.3f}", real("speed_variation", "{:.3f}")),
        "bounce_violations": ("bounce violations", "{:.1%}", real("bounce_violations", "{:.1%}")),
        "caption_accuracy": (
            "caption accuracy",
            "{:.1%}",
            "colour and shape as requested, combinations of the training set",
        ),
        "caption_accuracy_held_out": ("", "{:.1%}", "combinations held out"),
        "bits_per_dim": ("bits/dim", "{:.3f}", f"at most; +- {metrics.get('bits_per_dim_se', float('nan')):.3f}"),
        "bits_per_dim_ode": ("bits/dim (ODE)", "{:.3f}", f"+- {metrics.get('bits_per_dim_ode_se', float('nan')):.3f}"),
        "accuracy": ("accuracy", "{:.2%}", _by_noise(metrics)),
        "psnr": ("PSNR", "{:.2f} dB", "of reconstructions of held-out images"),
        "ssim": ("SSIM", "{:.4f}", ""),
        "rfid": ("reconstruction FID", "{:.3f}", "against the images themselves"),
        "rfvd": ("reconstruction FVD", "{:.1f}", "against the clips themselves"),
        "rclip_fd": ("reconstruction FD", "{:.3f}", "of clips, against the clips themselves"),
        "rframe_fid": ("", "{:.3f}", "of frames, against the frames themselves"),
        "kl": ("KL", "{:.1f}", "nats, of the posterior of an image to N(0, I)"),
        "codebook_usage": (
            "codebook",
            "{:.1%}",
            f"of its codes used, perplexity {metrics.get('perplexity', float('nan')):.1f}",
        ),
        "latent_std": (
            "latents",
            "{:.4g}",
            f"standard deviation over the training set, largest mean of a channel "
            f"{metrics.get('latent_mean', float('nan')):.3g}",
        ),
        "cross_entropy": ("cross-entropy", "{:.4f}", "nats, on held-out data"),
        "copy_ratio": (
            "copy ratio",
            "{:.3f}",
            "distance to the training set over that of held-out images: about 1 is right, 0 is a copy",
        ),
        "images_per_second": (
            "sampling",
            "{:.0f}",
            f"samples/s, {metrics.get('network_evaluations', float('nan')):g} network evaluations each",
        ),
    }
    return [
        (label, form.format(metrics[key]), remark) for key, (label, form, remark) in remarks.items() if key in metrics
    ]


def _by_noise(metrics: Mapping[str, float]) -> str:
    """Return in words the accuracies of a classifier at some of the noise levels."""
    levels = {name.rpartition("_")[2]: value for name, value in metrics.items() if name.startswith("accuracy_t_")}
    shown = [level for level in ("0", "0.25", "0.45", "0.65") if level in levels]
    return "; ".join(f"{levels[level]:.1%} at t = {level}" for level in shown)


def write_metrics(path: Path, metrics: Mapping[str, float], protocols: Mapping[str, Mapping[str, Any]]) -> None:
    """Write ``metrics.json``: numbers with the protocols under which they were measured, each with a short hash.

    Args:
        path: the file.
        metrics: the numbers by name.
        protocols: the settings that the numbers depend on, under a name such as ``protocol``; its hash is
            ``protocol_id``.
    """
    content: dict[str, Any] = {"metrics": dict(metrics)}
    for name, protocol in protocols.items():
        content |= {name: dict(protocol), f"{name}_id": identify(dict(protocol))}
    write_text(path, json.dumps(content, indent=2) + "\n")
