"""Conditioning on classes: names and ids, requests, and dropout that depends on the position in the stream alone."""

import pytest
import torch

from diffsweep.conditioning import ClassLabel, Unconditional
from diffsweep.diffusion import Noise

NAMES = ["zero", "one", "two", "three"]


def test_the_condition_of_a_batch_is_the_ids_of_its_classes():
    cond = ClassLabel(4)({"label": torch.tensor([3, 0, 2])})
    assert cond.vector.tolist() == [3, 0, 2]
    assert cond.is_null is None
    assert Unconditional()({"label": torch.tensor([3])}) is None


def test_a_request_has_every_class_in_turn_whatever_the_batch():
    conditioning = ClassLabel(4)
    assert conditioning.request(torch.arange(6), None)["label"].tolist() == [0, 1, 2, 3, 0, 1]
    assert conditioning.request(torch.tensor([5, 2]), None)["label"].tolist() == [1, 2]


def test_names_and_ids_give_the_same_classes():
    by_name, by_id = ClassLabel(4, NAMES, labels=["two", 0]), ClassLabel(4, labels=[2, 0])
    indices = torch.arange(5)
    assert by_name.request(indices, None)["label"].tolist() == by_id.request(indices, None)["label"].tolist()
    assert by_id.request(indices, None)["label"].tolist() == [2, 0, 2, 0, 2]


def test_a_request_is_described_by_the_names_of_its_classes():
    request = {"label": torch.tensor([2, 0, 2])}
    assert ClassLabel(3, ["cat", "dog", "ship"]).described(request) == ["ship", "cat", "ship"]
    assert ClassLabel(3).described(request) == ["class 2", "class 0", "class 2"]
    assert Unconditional().described({}) == []


def test_the_condition_of_a_request_has_its_negative_class():
    conditioning = ClassLabel(4, NAMES, negative="three")
    cond = conditioning(conditioning.request(torch.arange(3), None))
    assert cond.negative.vector.tolist() == [3, 3, 3]
    assert cond.opposite() is cond.negative
    assert ClassLabel(4)({"label": torch.tensor([1])}).opposite().is_null.tolist() == [True]


def test_dropout_of_a_sample_depends_on_its_noise_and_not_on_its_batch():
    conditioning = ClassLabel(4, dropout=0.3).train()
    noise, batch = Noise(1, torch.arange(4000)), {"label": torch.zeros(4000, dtype=torch.int64)}
    dropped = conditioning(batch, noise).is_null
    assert dropped.double().mean().item() == pytest.approx(0.3, abs=0.03)
    part = {"label": torch.zeros(50, dtype=torch.int64)}
    assert torch.equal(conditioning(part, noise[700:750]).is_null, dropped[700:750])
    assert (conditioning(batch, Noise(2, torch.arange(4000))).is_null != dropped).any()
    assert ClassLabel(4, dropout=1.0).train()(batch, noise).is_null.all()


@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_dropped_outside_training(training):
    conditioning, batch = ClassLabel(4, dropout=0.9).train(training), {"label": torch.zeros(500, dtype=torch.int64)}
    assert conditioning(batch).is_null is None  # held-out data, or a request
    assert (conditioning(batch, Noise(0, torch.arange(500))).is_null is None) != training


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"labels": [4]}, "conditioning.labels: no class 4; ids are 0 to 3"),
        ({"labels": [-1]}, "no class -1"),
        ({"labels": ["twoo"], "class_names": NAMES}, "no class named twoo; did you mean two?"),
        ({"labels": ["two"]}, "no class named two; give an id, 0 to 3"),
        ({"labels": []}, "conditioning.labels is empty"),
        ({"negative": 9}, "conditioning.negative: no class 9"),
        ({"class_names": ["a"]}, "has 1 names for 4 classes"),
        ({"dropout": 1.5}, r"conditioning.dropout must lie in \[0, 1\]"),
        ({"num_classes": None}, "these data have no classes"),
    ],
)
def test_wrong_settings_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        ClassLabel(**{"num_classes": 4, **settings})
