"""Random shifts of training images, which are keyed by the images' positions in the training run."""

import pytest
import torch

from diffsweep.datasets import RandomShift
from diffsweep.diffusion import Noise


def test_all_shifts_are_equally_likely():
    """A bright pixel stays, or moves to one of its eight neighbours, with probability 1/9 each."""
    count = 9000
    x = torch.full((count, 2, 5, 5), -1.0)
    x[:, 0, 2, 2], x[:, 1, 2, 2] = 1.0, 0.5
    moved = RandomShift(1)(x, Noise(3, torch.arange(count)))
    assert torch.equal(moved[:, 0] == 1, moved[:, 1] == 0.5)  # channels move together
    places = (moved[:, 0] == 1).double().mean(0)
    assert places[0].sum() == places[4].sum() == places[:, 0].sum() == places[:, 4].sum() == 0
    torch.testing.assert_close(places[1:4, 1:4], torch.full((3, 3), 1 / 9).double(), rtol=0, atol=0.015)
    assert (moved == -1).sum() == 24 * count * 2


def test_the_free_border_is_filled_with_background():
    moved = RandomShift(2, background=0.25)(torch.ones(400, 1, 4, 4), Noise(0, torch.arange(400)))
    sides = {(int((m[0] == 1).any(1).sum()), int((m[0] == 1).any(0).sum())) for m in moved}
    assert sides == {(a, b) for a in (2, 3, 4) for b in (2, 3, 4)}
    assert set(moved.unique().tolist()) == {0.25, 1.0}


def test_a_shift_depends_on_seed_and_position_alone():
    x, positions = torch.randn(50, 1, 6, 6), torch.arange(50)
    shift = RandomShift(1)
    whole, rows = shift(x, Noise(0, positions)), torch.tensor([41, 3])
    assert torch.equal(shift(x[rows], Noise(0, positions[rows])), whole[rows])
    assert not torch.equal(shift(x, Noise(1, positions)), whole)
    assert not torch.equal(shift(x, Noise(0, positions + 50)), whole)


def test_zero_pixels_shift_nothing_and_negative_ones_are_refused():
    x = torch.randn(2, 1, 3, 3)
    assert RandomShift(0)(x, Noise(0, torch.arange(2))) is x
    with pytest.raises(ValueError, match=r"augmentation\.pixels must be at least 0, not -1"):
        RandomShift(-1)
