"""Metrics of clips, compared with values computed by hand."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from options import CONF

from diffsweep.datasets import ImageData, InMemory, MovingDigits, joined_rows
from diffsweep.metrics import (
    ClipMetrics,
    DigitFrames,
    FrameFeatures,
    digit_crops,
    frechet_distance,
    load_digits_classifier,
    load_moving_digits_classifier,
    motion,
)

FRAMES = 5
SETTINGS = {"num_samples": 60, "kid_subsets": 2, "kid_subset_size": 20, "is_splits": 1}
OF_DIGITS = ("digit_confidence", "motion_error", "speed_variation", "bounce_violations", "digit_found")


def make(cache, frames=lambda: DigitFrames(load_digits_classifier), **settings):
    return ClipMetrics(load_moving_digits_classifier, frames=frames, cache_dir=str(cache), **{**SETTINGS, **settings})


def reconstructions(metrics, made, data):
    """Return the distances of reconstructions that come in two batches."""
    parts = [metrics.of_each_reconstruction(some, data) for some in made.split(50)]
    return metrics.of_reconstructions(joined_rows(parts), data)


@pytest.fixture(scope="module")
def data():
    return MovingDigits(num_frames=FRAMES, num_train=200, num_val=90)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def broken(data):
    """Return clips with shuffled and darkened frames."""
    x = MovingDigits(num_frames=FRAMES, num_val=150).split("val")["x"][90:]
    order = torch.stack([torch.randperm(FRAMES, generator=torch.Generator().manual_seed(i)) for i in range(len(x))])
    return 0.8 * (x.gather(2, order[:, None, :, None, None].expand_as(x)) + 1) - 1


@pytest.fixture(scope="module")
def numbers(data, cache, broken):
    return make(cache)(broken, data)


def by_hand(x):
    """Return features and logits of the digit of each frame, computed one after the other."""
    classifier = load_digits_classifier()
    outputs = [classifier(frame[None]) for clip in digit_crops(x) for frame in clip]
    return torch.cat([features for features, _ in outputs]), torch.cat([logits for _, logits in outputs])


def test_frame_metrics_are_those_of_the_features_of_each_frame(data, numbers, broken):
    fake, logits = by_hand(broken)
    real, real_logits = by_hand(data.split("train")["x"])
    held_out, held_out_logits = by_hand(data.split("val")["x"])
    assert len(fake) == 60 * FRAMES
    assert numbers["frame_fid"] == pytest.approx(frechet_distance(fake, real), rel=1e-3)
    some = torch.randperm(90, generator=torch.Generator().manual_seed(0))[:60].sort().values  # as many as samples
    chosen = held_out.unflatten(0, (90, FRAMES))[some].flatten(0, 1)
    assert numbers["frame_fid_real"] == pytest.approx(frechet_distance(chosen, real), rel=1e-3)
    assert numbers["frame_fid_real"] < numbers["frame_fid"] / 2
    clips = real_logits.unflatten(0, (-1, FRAMES))
    orders = [torch.randperm(len(clips), generator=torch.Generator().manual_seed(i)) for i in range(10)]
    of_real = [clips[order[:60]].flatten(0, 1) for order in orders]  # as many as samples
    for mark, parts in (("", [logits]), ("_real", of_real)):
        scores = []
        for outputs in parts:
            p = outputs.double().softmax(1)
            scores.append(float(torch.exp((p * (p / p.mean(0)).log()).sum(1).mean())))
        assert numbers[f"frame_is{mark}"] == pytest.approx(np.mean(scores), rel=1e-4)
    for mark, outputs in (("", logits), ("_real", held_out_logits)):
        largest = [float(np.exp(row - row.max()).sum() ** -1) for row in outputs.double().numpy()]
        assert numbers[f"digit_confidence{mark}"] == pytest.approx(np.mean(largest), rel=1e-4)


def test_training_clips_in_place_of_samples_have_the_best_values(data, cache):
    """Training clips have distance 0 from themselves, and obey the law of motion as held-out ones do."""
    numbers = make(cache)(data.split("train")["x"], data)
    assert numbers["frame_fid"] == pytest.approx(0, abs=1e-3)
    assert numbers["clip_fd"] == pytest.approx(0, abs=1e-3)
    assert numbers["frame_is"] == pytest.approx(numbers["frame_is_real"], rel=1e-4)
    for mark in ("", "_real"):
        assert numbers[f"motion_error{mark}"] < 0.04
        assert numbers[f"speed_variation{mark}"] < 0.06
        assert numbers[f"bounce_violations{mark}"] == 0
        assert numbers[f"digit_found{mark}"] == 1
        assert numbers[f"digit_confidence{mark}"] > 0.95


def test_motion_is_measured_of_samples_and_of_held_out_clips(data, numbers, broken):
    for mark, x in (("", broken), ("_real", data.split("val")["x"])):
        measured = motion(x, data.speed)
        for name in ("motion_error", "speed_variation", "bounce_violations", "digit_found"):
            assert numbers[f"{name}{mark}"] == pytest.approx(float(getattr(measured, name).mean())), name
    assert numbers["motion_error"] > 10 * numbers["motion_error_real"]
    assert numbers["speed_variation"] > 5 * numbers["speed_variation_real"]


def test_the_allowed_speeds_are_those_of_the_data(cache, broken):
    """Fast clips obey the law of fast data and not that of slow data."""
    fast, slow = (MovingDigits(num_frames=FRAMES, speed=s, num_train=60, num_val=60) for s in ((1.8, 2.0), (0.1, 0.3)))
    x = fast.split("val")["x"]
    settings = {"frames": None, "num_samples": 60}
    assert make(cache, **settings)(x, fast)["motion_error"] < 0.05
    assert make(cache, **settings)(x, slow)["motion_error"] > 1


def test_the_distance_between_clips_has_its_own_name(data, cache, numbers, broken):
    """No metric of clips is called FID or IS, which are for images; the others keep their names."""
    features, (fake, logits) = load_moving_digits_classifier(), load_moving_digits_classifier()(broken)
    real, held_out = (features(data.split(split)["x"])[0] for split in ("train", "val"))
    assert numbers["clip_fd"] == pytest.approx(frechet_distance(fake, real), rel=1e-3)
    some = torch.randperm(90, generator=torch.Generator().manual_seed(0))[:60].sort().values
    assert numbers["clip_fd_real"] == pytest.approx(frechet_distance(held_out[some], real), rel=1e-3)
    assert next(iter(numbers)) == "clip_fd"
    assert not {"fid", "is", "fvd", "fid_real", "is_real"} & numbers.keys()
    assert {"kid", "precision", "recall", "copy_ratio", "clip_is", "clip_is_real"} <= numbers.keys()
    right = logits.argmax(1)
    assert make(cache)(broken, data, {"label": right})["class_accuracy"] == 1
    (warning,) = make(cache, num_samples=64).warnings()
    assert warning.startswith("clip FD is biased: 64 samples")


def test_clips_of_two_digits_have_no_metrics_of_single_digits(cache, tmp_path):
    data = MovingDigits(num_frames=4, num_digits=2, num_train=70, num_val=60)
    assert data.physics is None
    assert MovingDigits(num_frames=2).physics is None
    x = data.split("train")["x"]
    numbers = make(tmp_path)(x, data)
    assert not any(name.startswith(("frame", *OF_DIGITS)) for name in numbers)
    assert numbers["clip_fd"] == pytest.approx(0, abs=1e-3)
    assert reconstructions(make(tmp_path), data.split("val")["x"], data).keys() == {"rclip_fd"}


class Colours(torch.nn.Module):
    """An extractor that needs no training, of images, and of clips by their first frame."""

    name, weights_hash, num_features, distance = "colours", "none", 3, "colour_distance"

    def __init__(self):
        super().__init__()
        self.at_once = 0

    def forward(self, x):
        x = x[:, :, 0] if x.ndim == 5 else x
        self.at_once = max(self.at_once, len(x))
        means = x.mean((2, 3))
        return means, 3 * torch.stack([-means[:, 0], means[:, 0]], 1)


class Skies(ImageData):
    """A dataset of clips of changing colours, (3, 4, 5, 5)."""

    fingerprint = "skies"

    def __init__(self):
        super().__init__(3, 5, None, 256, batch_size=4, num_frames=4)

    def load(self, split):
        count, seed = {"train": (40, 0), "val": (10, 1), "all": (50, 2)}[split]
        colours = torch.rand(count, 3, 4, 1, 1, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        return InMemory({"x": colours.expand(-1, -1, -1, 5, 5).contiguous()})


def of_skies(cache, reference, batch_size=16):
    frames, settings = (
        FrameFeatures(Colours),
        {"num_samples": 24, "kid_subsets": 2, "kid_subset_size": 8, "is_splits": 1},
    )
    metrics = ClipMetrics(
        Colours, frames=lambda: frames, reference=reference, batch_size=batch_size, cache_dir=str(cache), **settings
    )
    return metrics, frames


@pytest.mark.parametrize("reference", ["train", "all", "halves"])
def test_any_extractor_of_images_serves_frames(tmp_path, reference):
    """The reference is the training set, all data, or halves of all data that divide whole clips."""
    data, (metrics, frames) = Skies(), of_skies(tmp_path, reference)
    x = torch.rand(24, 3, 4, 5, 5) * 2 - 1
    numbers = metrics(x, data)
    colours = {split: data.split(split)["x"][..., 0, 0].transpose(1, 2) for split in ("train", "val", "all")}
    fake = x.mean((3, 4)).transpose(1, 2).flatten(0, 1)  # (96, 3)
    if reference == "halves":
        orders = [torch.randperm(50, generator=torch.Generator().manual_seed(i)) for i in range(10)]
        pairs = [(colours["all"][order[:24]], colours["all"][order[25:]]) for order in orders]  # as many as x
    else:
        pairs = [(colours["val"], colours[reference])]
    expected = [frechet_distance(fake, real.flatten(0, 1)) for _, real in pairs]
    floor = [frechet_distance(other.flatten(0, 1), real.flatten(0, 1)) for other, real in pairs]
    assert numbers["frame_fid"] == pytest.approx(np.mean(expected), rel=1e-4)
    if reference == "all":  # no other real frames are left
        assert "frame_fid_real" not in numbers
    else:
        assert numbers["frame_fid_real"] == pytest.approx(np.mean(floor), rel=1e-4)
    assert "colour_distance" in numbers
    assert not any(name.startswith((*OF_DIGITS, "frame_confidence")) for name in numbers)
    assert frames.of_images.at_once == 16  # as many images at once as the batch has clips
    assert metrics.protocol()["frames"] == "colours of frames"


def test_features_of_frames_and_of_clips_have_separate_caches(tmp_path):
    """Also with the same network and the same data."""
    data, (metrics, _) = Skies(), of_skies(tmp_path, "train")
    assert metrics.real(data, "train")[0].shape == (40, 3)
    assert metrics.frames.extraction.real(data, "train")[0].shape == (160, 3)
    assert len(list(tmp_path.glob("features-*.pt"))) == 2
    crops = DigitFrames(load_digits_classifier)
    hashes = {
        crops.weights_hash,
        FrameFeatures(load_digits_classifier).weights_hash,
        load_digits_classifier().weights_hash,
    }
    assert len(hashes) == 3
    protocol = make(tmp_path).protocol()
    assert protocol["frames_sha256"] == load_digits_classifier().weights_hash
    assert "frames" not in make(tmp_path, frames=None).protocol()


def test_reconstructed_clips_are_compared_with_the_originals(data, cache):
    """As whole clips and by frame, with the held-out clips."""
    x, metrics = data.split("val")["x"], make(cache)
    same = reconstructions(metrics, x, data)
    assert same == {"rclip_fd": pytest.approx(0, abs=1e-3), "rframe_fid": pytest.approx(0, abs=1e-3)}
    still = x[:, :, :1].expand_as(x)
    features = load_moving_digits_classifier()
    distance = frechet_distance(features(still)[0], features(x)[0])
    frames = frechet_distance(by_hand(still)[0], by_hand(x)[0])
    numbers = reconstructions(metrics, still, data)
    assert numbers == {"rclip_fd": pytest.approx(distance, rel=1e-3), "rframe_fid": pytest.approx(frames, rel=1e-3)}
    assert numbers["rclip_fd"] > 10 * numbers["rframe_fid"]


def test_least_frames_of_the_option_is_that_of_its_features():
    option = OmegaConf.load(CONF / "metrics/moving_digits.yaml")
    assert option.least_frames == load_moving_digits_classifier().least_frames
