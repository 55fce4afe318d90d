"""Spherical interpolation follows the circle at even angles, and a straight line where a and b are parallel."""

import math

import pytest
import torch

from diffsweep.diffusion import slerp

U = torch.linspace(0, 1, 7)


def test_points_in_a_plane_lie_at_even_angles():
    angle = torch.tensor([0.3, 1.2, 3.0]).double()
    a = torch.tensor([[1.0, 0.0]]).double().repeat(3, 1)
    b = torch.stack([angle.cos(), angle.sin()], dim=1)
    turned = U.double()[:, None] * angle
    expected = torch.stack([turned.cos(), turned.sin()], dim=-1)
    torch.testing.assert_close(slerp(a, b, U), expected, rtol=0, atol=1e-12)


def test_ends_and_norms_are_kept_row_by_row():
    a, b = torch.randn(2, 5, 1, 4, 4).double().unbind()
    a, b = a / a.flatten(1).norm(dim=1)[:, None, None, None], b / b.flatten(1).norm(dim=1)[:, None, None, None]
    between = slerp(3 * a, 3 * b, U)
    assert between.shape == (7, 5, 1, 4, 4)
    torch.testing.assert_close(between[0], 3 * a)
    torch.testing.assert_close(between[-1], 3 * b)
    torch.testing.assert_close(between.flatten(2).norm(dim=2), torch.full((7, 5), 3.0).double())
    torch.testing.assert_close(slerp(3 * a[2:3], 3 * b[2:3], U)[:, 0], between[:, 2])


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_parallel_and_zero_vectors_give_the_straight_line(scale):
    a = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    b = scale * a
    torch.testing.assert_close(slerp(a, b, U), torch.lerp(a, b, U[:, None, None]))


def test_noise_stays_of_its_size():
    """Half way between two noises the mean square is 1, where the straight line has 1/2."""
    a, b = torch.randn(2, 200, 400).unbind()
    assert slerp(a, b, torch.tensor([0.5])).square().mean().item() == pytest.approx(1, abs=0.02)
    assert math.isclose(((a + b) / 2).square().mean().item(), 0.5, abs_tol=0.02)
