"""Conditioning on numbers and on several conditions at once."""

import pytest
import torch

from diffsweep.conditioning import ClassLabel, ImageFeatures, Joint, Scalars
from diffsweep.datasets import InMemory
from diffsweep.degradations import Downsampling
from diffsweep.diffusion import Noise


def samples(count=5, channels=3, size=8):
    torch.manual_seed(0)
    parts = {"x": torch.rand(count, channels, size, size) * 2 - 1, "label": torch.arange(count) % 4}
    return InMemory({**parts, "scalars": torch.rand(count, 2)})


def test_a_request_has_the_numbers_of_held_out_samples_or_those_of_the_settings():
    data = samples()
    assert torch.equal(Scalars(["x", "y"])(data[torch.tensor([3])]).scalars, data["scalars"][3:4])
    assert torch.equal(Scalars(["x", "y"]).request(torch.tensor([7]), data)["scalars"], data["scalars"][2:3])
    request = Scalars(["x", "y"], values=[[0, 1], [2, 3]]).request(torch.arange(3), None)
    assert request["scalars"].tolist() == [[0, 1], [2, 3], [0, 1]]


def test_a_request_is_described_by_its_numbers_with_their_names_and_a_joint_one_by_all_parts():
    numbers = Scalars(["x", "y"])
    request = {"scalars": torch.tensor([[0.25, 3.0], [1.0, 1 / 3]]), "label": torch.tensor([1, 0])}
    assert numbers.described(request) == ["x 0.25 y 3", "x 1 y 0.333"]
    joint = Joint({"class": ClassLabel(2, ["cat", "dog"]), "numbers": numbers})
    assert joint.described(request) == ["dog, x 0.25 y 3", "cat, x 1 y 0.333"]


def test_joint_conditions_are_given_and_dropped_together():
    data = samples()
    parts = {"class": ClassLabel(4, negative=3), "numbers": Scalars(["x", "y"])}
    conditioning = Joint(parts, dropout=0.5).train()
    assert conditioning.sizes == {"num_classes": 4, "num_scalars": 2}
    noise = Noise(0, torch.arange(5))
    cond = conditioning(data[torch.arange(5)], noise)
    assert torch.equal(cond.vector, data["label"])
    assert torch.equal(cond.scalars, data["scalars"])
    alone = ClassLabel(4, dropout=0.5).train()({"label": data["label"]}, noise)
    assert torch.equal(cond.is_null, alone.is_null)
    cond = conditioning.eval()(conditioning.request(torch.arange(5), data))
    assert cond.negative.vector.tolist() == [3] * 5
    assert torch.equal(cond.negative.scalars, cond.scalars)  # the numbers have no negative condition


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Scalars(None), "have no numbers for their samples"),
        (lambda: Scalars(["x", "y"], values=[[1]]), "needs 2 numbers for each sample: x, y"),
        (lambda: Joint({}), "conditioning.parts is empty"),
        (lambda: Joint({"a": ClassLabel(4), "b": ClassLabel(4)}), "two of them provide num_classes"),
        (lambda: Joint({"a": ClassLabel(4, dropout=0.1)}), "parts.a.dropout must be 0: parts are dropped together"),
        (lambda: Joint({"a": ClassLabel(4), "b": ImageFeatures(Downsampling(2), 3, 8)}), "either a class or features"),
    ],
)
def test_wrong_settings_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
