"""Shapes with spots: the region is where they differ from shapes without, and nothing else differs."""

import pytest
import torch

from diffsweep.datasets import Shapes, SpottedShapes

SIZES = {"num_train": 400, "num_val": 64}


def test_a_spot_is_all_that_differs_from_shapes():
    spotted, plain = (made(**SIZES).split("val") for made in (SpottedShapes, Shapes))
    index = torch.arange(64)
    batch, other = spotted[index], plain[index]
    assert batch["caption"] == other["caption"]
    region, differs = spotted["region"], (batch["x"] != other["x"]).any(1)
    assert torch.equal(differs.flatten(1).any(1), batch["label"] == 1)
    assert torch.equal(region.flatten(1).any(1), batch["label"] == 1)
    assert differs[region].all()
    assert 0.4 < region.sum() / differs.sum() < 1  # the spot's edge is smooth
    lime = torch.tensor([150, 255, 0]) / 127.5 - 1
    inner = batch["x"].movedim(1, 3)[region]
    assert ((inner - lime).abs().amax(1) < 1e-6).float().mean() > 0.4
    torch.testing.assert_close(spotted["x"], batch["x"])
    assert "region" not in batch


def test_the_share_of_spots_is_set_and_part_of_the_fingerprint():
    few, many = (SpottedShapes(spot=spot, **SIZES) for spot in (0.2, 0.7))
    assert few.split("train")["label"].float().mean() == pytest.approx(0.2, abs=0.06)
    assert many.split("train")["label"].float().mean() == pytest.approx(0.7, abs=0.07)
    assert few.fingerprint != many.fingerprint
    assert few.fingerprint == SpottedShapes(spot=0.2, **SIZES).fingerprint
    assert few.aligned(torch.zeros(1, 3, 16, 16), {"label": torch.zeros(1)}) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spot": 1.0}, "dataset.spot is the share of images with a spot, between 0 and 1, not 1.0"),
        ({"num_classes": 4}, "2 classes"),
        ({"class_names": ["a", "b"]}, r"dataset.class_names of shapes is \[healthy, spotted\]"),
    ],
)
def test_what_is_not_possible_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SpottedShapes(**SIZES, **settings)
