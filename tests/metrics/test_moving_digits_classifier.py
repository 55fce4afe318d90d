"""The fixed classifier of moving digits, and the distance between clips by its features."""

import hashlib
import math

import pytest
import torch
from torch.nn import functional

from diffsweep.datasets import MovingDigits
from diffsweep.metrics import (
    MovingDigitsClassifier,
    frechet_distance,
    kind_of_motion,
    load_moving_digits_classifier,
)
from diffsweep.metrics.moving_digits_classifier import WEIGHTS
from diffsweep.metrics.train_moving_digits_classifier import accuracies


@pytest.fixture(scope="module")
def classifier():
    return load_moving_digits_classifier()


def test_kinds_of_motion_by_hand():
    """The boundaries are speeds 1 and 1.5 and directions 30 and 60 degrees; signs, which walls change, do not count."""
    degrees = torch.tensor([10.0, 45.0, 80.0])
    speeds = torch.tensor([0.9, 1.2, 1.9])
    velocity = torch.stack([torch.cos(degrees * math.pi / 180), torch.sin(degrees * math.pi / 180)], 1)
    every = (speeds[:, None, None] * velocity).flatten(0, 1)
    assert kind_of_motion(every).tolist() == list(range(9))
    for signs in ([-1, 1], [1, -1], [-1, -1]):
        assert kind_of_motion(every * torch.tensor(signs)).tolist() == list(range(9))


@pytest.mark.parametrize(("frames", "digit", "motion"), [(4, 0.93, 0.86), (8, 0.95, 0.91), (16, 0.95, 0.92)])
def test_held_out_digits_and_motions_are_recognised(classifier, frames, digit, motion):
    """Measured on 2,000 clips: 95.7, 97.4 and 98.0 % of the digits, and 89.5, 94.4 and 95.9 % of the motions."""
    of_digit, of_motion = accuracies(classifier, frames, 500)
    assert of_digit > digit
    assert of_motion > motion


def test_the_distance_depends_on_motion_and_appearance(classifier):
    """Real clips are far nearer than the same with shuffled frames, with one repeated frame, or with blurred digits."""
    x = MovingDigits(num_train=1000).split("train")["x"]
    real, other = x.split(500)
    order = torch.stack([torch.randperm(8) for _ in other])
    broken = {
        "shuffled": other.gather(2, order[:, None, :, None, None].expand_as(other)),
        "frozen": other[:, :, :1].expand_as(other),
        "blurred": functional.avg_pool3d(functional.pad(other, (1, 1, 1, 1), value=-1), (1, 3, 3), 1),
    }
    reference = classifier(real)[0]
    floor = frechet_distance(classifier(other)[0], reference)
    for name, clips in broken.items():
        assert frechet_distance(classifier(clips)[0], reference) > 8 * floor, name


def test_features_depend_on_the_clip_alone(classifier):
    x = MovingDigits(num_train=6).split("train")["x"]
    features, logits = classifier(x)
    assert (features.shape, logits.shape) == ((6, 64), (6, 10))
    torch.testing.assert_close(classifier(x[[4, 2]])[0], features[[4, 2]])
    torch.testing.assert_close(classifier(x + 0.3 / 127.5)[0], features)  # equal after rounding to levels


def test_the_weights_are_those_of_the_repository(classifier):
    content = WEIGHTS.read_bytes()
    assert len(content) < 1_000_000
    assert classifier.weights_hash == hashlib.sha256(content).hexdigest()
    assert not classifier.training


def test_too_few_frames_are_refused():
    with pytest.raises(ValueError, match="at least 4 frames, not 3"):
        MovingDigitsClassifier()(torch.zeros(1, 1, 3, 16, 16))
