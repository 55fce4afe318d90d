"""The table of metrics: the name that people read, the value that is best, and how a number of each is printed.

Everything that ranks numbers, prints them or sends them to a tracker takes names, directions and formats from here.
"""

import math
from typing import NamedTuple

LOWER, HIGHER, NEITHER = -math.inf, math.inf, math.nan


class Metric(NamedTuple):
    """What is known of a metric, whose numbers files keep in its own unit.

    Print numbers by :meth:`shown`, since some are multiplied first: KID, of about 0.001, is printed times 1,000.

    Attributes:
        label: the name that tables and sentences show.
        best: the value that is best: ``LOWER`` (-inf) if lower is better, ``HIGHER`` (inf) if higher is, a finite value
            if nearer to that value is better, and ``NEITHER`` (nan) if no value is better than another.
        form: the format of one number, after multiplication.
        unit: what is written behind a number, such as " dB".
        scale: what numbers are multiplied by when they are printed; the label names it.
    """

    label: str
    best: float
    form: str = "{:.4g}"
    unit: str = ""
    scale: float = 1.0

    @property
    def ranks(self) -> bool:
        """Whether some values are better than others."""
        return not math.isnan(self.best)

    @property
    def has_target(self) -> bool:
        """Whether a finite value is best."""
        return math.isfinite(self.best)

    @property
    def factor(self) -> float:
        """What numbers are multiplied by when they are printed with digits of another number: 100 times of shares."""
        return self.scale * (100 if self.form.endswith("%}") else 1)

    @property
    def suffix(self) -> str:
        """What is written behind such a number: a percent sign or the unit."""
        return " %" if self.form.endswith("%}") else self.unit

    def shortfall(self, value: float) -> float:
        """Return a number that is lower if a value is better: the value, its negative, or its distance from best."""
        if math.isinf(self.best):
            return value if self.best < 0 else -value
        return abs(value - self.best)

    def shown(self, value: float, unit: bool = True) -> str:
        """Return a number, a difference or an error as it is printed: times ``scale``, in ``form``, with the unit.

        Args:
            value: as ``metrics.json`` has it.
            unit: whether the unit is written behind it.
        """
        return self.form.format(value * self.scale) + (self.unit if unit else "")


# In the order of the columns of tables.
METRICS = {
    "fid": Metric("FID", LOWER, "{:.3f}"),
    "fd_dinov2": Metric("FD-DINOv2", LOWER, "{:.1f}"),
    "fid_clip": Metric("FID by CLIP", LOWER, "{:.3f}"),
    "sfid": Metric("sFID", LOWER, "{:.3f}"),
    "fvd": Metric("FVD", LOWER, "{:.1f}"),
    "clip_fd": Metric("clip FD", LOWER, "{:.3f}"),
    "frame_fid": Metric("frame FID", LOWER, "{:.3f}"),
    "fid_infinity": Metric("FID at infinity", LOWER, "{:.3f}"),
    "fd_dinov2_infinity": Metric("FD-DINOv2 at infinity", LOWER, "{:.1f}"),
    "fid_clip_infinity": Metric("FID by CLIP at infinity", LOWER, "{:.3f}"),
    "fvd_infinity": Metric("FVD at infinity", LOWER, "{:.1f}"),
    "clip_fd_infinity": Metric("clip FD at infinity", LOWER, "{:.3f}"),
    "is": Metric("IS", HIGHER, "{:.3f}"),
    "clip_is": Metric("clip IS", HIGHER, "{:.3f}"),
    "frame_is": Metric("frame IS", HIGHER, "{:.3f}"),
    "kid": Metric("KID x 1000", LOWER, "{:,.2f}", scale=1000),
    "precision": Metric("precision", HIGHER, "{:.3f}"),
    "recall": Metric("recall", HIGHER, "{:.3f}"),
    "clip_score": Metric("CLIP score", HIGHER, "{:.2f}"),
    "class_accuracy": Metric("class accuracy", HIGHER, "{:.1%}"),
    "digit_confidence": Metric("digit confidence", HIGHER, "{:.3f}"),
    "digit_found": Metric("digit found", HIGHER, "{:.1%}"),
    "motion_error": Metric("motion error", LOWER, "{:.3f}"),
    "speed_variation": Metric("speed variation", LOWER, "{:.3f}"),
    "bounce_violations": Metric("bounce violations", LOWER, "{:.1%}"),
    "caption_accuracy": Metric("caption accuracy", HIGHER, "{:.1%}"),
    "caption_accuracy_held_out": Metric("caption accuracy, held out", HIGHER, "{:.1%}"),
    "control_iou": Metric("control IoU", HIGHER, "{:.3f}"),
    "control_error": Metric("control error", LOWER, "{:.2f}"),
    "control_2_iou": Metric("control 2 IoU", HIGHER, "{:.3f}"),
    "control_2_error": Metric("control 2 error", LOWER, "{:.2f}"),
    "win_rate": Metric("win rate against the reference", HIGHER, "{:.1%}"),
    "score_gain": Metric("score above the reference", HIGHER, "{:+.3g}"),
    "copy_ratio": Metric("copy ratio", 1.0, "{:.3f}"),
    "accuracy": Metric("accuracy", HIGHER, "{:.2%}"),
    "cross_entropy": Metric("cross-entropy", LOWER, "{:.4f}"),
    "psnr": Metric("PSNR", HIGHER, "{:.2f}", " dB"),
    "ssim": Metric("SSIM", HIGHER, "{:.4f}"),
    "inconsistency": Metric("inconsistency", LOWER, "{:.3f}"),
    "rfid": Metric("reconstruction FID", LOWER, "{:.3f}"),
    "rfd_dinov2": Metric("reconstruction FD-DINOv2", LOWER, "{:.1f}"),
    "rfid_clip": Metric("reconstruction FID by CLIP", LOWER, "{:.3f}"),
    "rfvd": Metric("reconstruction FVD", LOWER, "{:.1f}"),
    "rclip_fd": Metric("reconstruction FD", LOWER, "{:.3f}"),
    "rframe_fid": Metric("reconstruction frame FID", LOWER, "{:.3f}"),
    "kl": Metric("KL", NEITHER, "{:.1f}"),
    "codebook_usage": Metric("codebook used", HIGHER, "{:.1%}"),
    "latent_std": Metric("latents", NEITHER, "{:.4g}"),
    "bits_per_dim": Metric("bits/dim", LOWER, "{:.3f}"),
    "bits_per_dim_ode": Metric("bits/dim (ODE)", LOWER, "{:.3f}"),
    "straightness": Metric("straightness", LOWER, "{:.3f}"),
    "ema_error": Metric("error of the EMA profile", NEITHER, "{:.2%}"),
    "cache_error": Metric("error by the feature cache", LOWER, "{:.3g}"),
    "network_evaluations": Metric("network evaluations", NEITHER, "{:g}"),
    "partial_evaluations": Metric("partial evaluations", NEITHER, "{:g}"),
    "images_per_second": Metric("samples/s", HIGHER, "{:.4g}"),
    "train/loss": Metric("training loss", LOWER, "{:.4f}"),
    "val/loss": Metric("validation loss", LOWER, "{:.4f}"),
    "val/x0_mse": Metric("squared error of x0", LOWER, "{:.4f}"),
    "val/eps_mse": Metric("squared error of eps", LOWER, "{:.4f}"),
    "hours": Metric("hours", LOWER, "{:.3g}"),
    "parameters": Metric("parameters", NEITHER, "{:,.0f}"),
}
# The distances from real data that runs are compared by, each with what is plotted beside it: the inception score of
# the same features, or recall where these have no classes.
DISTANCES = {"fid": "is", "fvd": "clip_is", "clip_fd": "clip_is", "fd_dinov2": "recall", "fid_clip": "recall"}
# What runs are compared by if no metric is named: the first that was measured.
HEADLINES = (
    *DISTANCES,
    "bits_per_dim",
    "bits_per_dim_ode",
    "cross_entropy",
    *(f"r{distance}" for distance in DISTANCES),
    "val/loss",
)


def metric(name: str) -> Metric:
    """Return what is known of a metric; of an unknown one that no value is better than another."""
    return METRICS.get(name, Metric(name.replace("_", " "), NEITHER))


def named(best: float, prefix: str = "") -> tuple[str, ...]:
    """Return the names of the metrics with a best value, such as ``LOWER``, but for ``hours``.

    Args:
        best: the value.
        prefix: put before names that have no slash, such as ``eval/``.
    """
    return tuple(
        name if "/" in name else f"{prefix}{name}"
        for name, known in METRICS.items()
        if known.best == best and name != "hours"
    )
