"""Known pixels that are pasted into samples."""

import pytest
import torch

from diffsweep.diffusion import Condition, Known, Pasted, PixelMask


def known(count=3, known_columns=8):
    torch.manual_seed(0)
    mask = torch.zeros(count, 1, 16, 16, dtype=torch.bool)
    mask[..., :known_columns] = True
    return Known(PixelMask(mask), torch.rand(count, 2, 16, 16))


def test_known_pixels_are_those_that_are_known_to_the_bit():
    given, x = known(), torch.rand(3, 2, 16, 16)
    pasted = Pasted(given)(x)
    assert torch.equal(pasted[..., :8], given.y[..., :8])
    assert torch.equal(pasted[..., 8:], x[..., 8:])


@pytest.mark.parametrize("seam", [1, 3])
def test_a_seam_blends_evenly_from_the_edge_on(seam):
    """The weight of the d-th known pixel from the edge is (2 d - 1) / (2 s + 1)."""
    given, x = known(), torch.rand(3, 2, 16, 16)
    pasted = Pasted(given, seam)(x)
    assert torch.equal(pasted[..., : 8 - seam], given.y[..., : 8 - seam])
    assert torch.equal(pasted[..., 8:], x[..., 8:])
    for d in range(1, seam + 1):
        weight = (2 * d - 1) / (2 * seam + 1)
        column = 8 - d
        expected = weight * given.y[..., column] + (1 - weight) * x[..., column]
        torch.testing.assert_close(pasted[..., column], expected)


def test_they_are_a_part_of_conditions():
    given, x = known(), torch.rand(3, 2, 16, 16)
    cond = Condition(vector=torch.arange(3), pasted=Pasted(given, 2))
    order = torch.tensor([2, 0])
    assert torch.equal(cond[order].pasted(x[order]), cond.pasted(x)[order])
    both = cond[:1].cat(cond[1:])
    assert torch.equal(both.pasted(x), cond.pasted(x))
    assert both.pasted.seam == 2
    assert cond.to(torch.device("meta")).pasted.device.type == "meta"
    assert cond.of_frames(2).pasted is None
