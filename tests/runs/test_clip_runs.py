"""A tiny video run is measured by the metrics of clips, under their names."""

import json
import math

from diffsweep.runs.training import train

TINY = (
    "dataset.subpixel=true",
    *("model=video", "metrics=moving_digits", "metrics.num_samples=12", "metrics.kid_subset_size=8"),
    *("dataset.num_frames=4", "dataset.num_train=70", "dataset.num_val=20", "dataset.batch_size=4"),
)


def test_a_video_run_is_measured_by_metrics_of_clips(tmp_path, configure, capfd):
    returned = train(configure(tmp_path / "run", *TINY))
    content = json.loads((tmp_path / "run/metrics.json").read_text())
    metrics = content["metrics"]
    both = ("clip_fd", "clip_is", "frame_fid", "frame_is", "digit_confidence")
    both += ("motion_error", "speed_variation", "bounce_violations", "digit_found")
    assert {*both, *(f"{name}_real" for name in both), "kid", "precision", "recall", "copy_ratio"} < metrics.keys()
    assert not {"fid", "is", "fvd"} & metrics.keys()
    assert all(math.isfinite(value) for value in metrics.values())
    assert returned == metrics["clip_fd"]
    assert metrics["motion_error_real"] < 0.05 < metrics["motion_error"]
    assert metrics["digit_confidence_real"] > 0.9
    assert content["protocol"]["features"] == "moving-digits-classifier"
    assert content["protocol"]["frames"] == "digits-classifier of digit crops"
    printed = capfd.readouterr().out
    for label, name in (("clip FD", "clip_fd"), ("frame FID", "frame_fid"), ("motion error", "motion_error")):
        (line,) = [line for line in printed.splitlines() if line.strip().startswith(label)]
        assert f"{metrics[name]:.3f}" in line
        assert f" {metrics[f'{name}_real']:.3f}" in line
    assert "FID is biased" not in printed
