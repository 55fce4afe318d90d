"""Precision, recall and nearest neighbours, compared with cases by hand and with loops over all pairs."""

import pytest
import torch

from diffsweep.metrics import manifold, precision_recall
from diffsweep.metrics.neighbours import nearest_distances, squared_distances


def line(*points):
    return torch.tensor(points, dtype=torch.float32)[:, None]


def measured(fake, real, neighbours, **settings):
    return precision_recall(manifold(fake, neighbours, **settings), manifold(real, neighbours, **settings), **settings)


def brute_force(fake, real, neighbours):
    """Return precision and recall by their definition, pair by pair, in numpy's float64."""
    fake, real = fake.double().numpy(), real.double().numpy()

    def radii(points):
        return [
            sorted(((p - q) ** 2).sum() for j, q in enumerate(points) if j != i)[neighbours - 1]
            for i, p in enumerate(points)
        ]

    def share(inside, points):
        around = radii(points)
        return sum(any(((p - q) ** 2).sum() <= r for q, r in zip(points, around, strict=True)) for p in inside) / len(
            inside
        )

    return share(fake, real), share(real, fake)


@pytest.mark.parametrize("neighbours", [1, 2, 3])
def test_precision_and_recall_are_0_for_disjoint_and_1_for_equal_sets(neighbours):
    real = torch.randn(50, 6)
    assert measured(real + 100, real, neighbours) == (0, 0)
    assert measured(real.flip(0), real, neighbours) == (1, 1)


def test_samples_of_one_mode_have_precision_1_and_that_modes_recall():
    """All samples are of one mode, which has a quarter of the real points."""
    mode, others = torch.randn(40, 5), torch.randn(120, 5) + 100
    precision, recall = measured(mode.repeat(4, 1), torch.cat([mode, others]), 3)
    assert (precision, recall) == (1, 0.25)
    precision, recall = measured(torch.cat([mode, others]), mode.repeat(4, 1), 3)  # the other way round
    assert (precision, recall) == (0.25, 1)


def test_balls_on_a_line():
    """With k = 1, the real points 0, 1 and 4 have radii 1, 1 and 3, and cover [-1, 7].

    Samples -1 (on the surface), 6, 7.5 and 20 have radii 7, 1.5, 1.5 and 12.5, and cover [-8, 9] and [7.5, 32.5].
    """
    assert measured(line(-1, 6, 7.5, 20), line(0, 1, 4), 1) == (0.5, 1)
    # samples 3 and 3.5 cover [2.5, 4]: of the real points only 4, on the surface
    assert measured(line(3, 3.5), line(0, 1, 4), 1) == (1, pytest.approx(1 / 3))


def test_the_radius_is_that_of_the_kth_other_point():
    points = line(0, 1, 3, 7, 15)
    assert manifold(points, 1).squared_radii.tolist() == [1, 1, 4, 16, 64]
    assert manifold(points, 2).squared_radii.tolist() == [9, 4, 9, 36, 144]
    assert manifold(points, 4).squared_radii.tolist() == [225, 196, 144, 64, 225]


def test_duplicates_are_neighbours_with_balls_of_radius_0():
    """Four points at one place have radius 0 with k = 3; a sample is inside only at the same place."""
    place = 1000 * torch.rand(1, 64) + 1000
    real = place.repeat(4, 1)
    assert manifold(real, 3).squared_radii.tolist() == [0, 0, 0, 0]
    assert manifold(torch.cat([real[:3], real[:1] + 1]), 3).squared_radii == pytest.approx([64] * 4, rel=1e-4)
    near = real.clone()
    near[2:, 0] += 1
    assert measured(near, real, 3)[0] == 0.5


@pytest.mark.parametrize("neighbours", [1, 3, 5])
@pytest.mark.parametrize(("fakes", "reals"), [(40, 40), (30, 55)])
def test_precision_and_recall_equal_their_definition(neighbours, fakes, reals):
    fake, real = 0.8 * torch.randn(fakes, 4) + 0.5, torch.randn(reals, 4)
    fake[:5] = real[:5]
    expected = brute_force(fake, real, neighbours)
    assert measured(fake, real, neighbours) == pytest.approx(expected, abs=1e-12)
    assert 0 < expected[0] < 1  # neither is trivial
    assert 0 < expected[1] < 1


@pytest.mark.parametrize("block", [1, 70, 333])
def test_the_block_size_changes_nothing(block):
    fake, real = torch.randn(40, 8) + 0.5, torch.randn(60, 8)
    torch.testing.assert_close(manifold(real, 3, block).squared_radii, manifold(real, 3).squared_radii)
    assert measured(fake, real, 3, block=block) == measured(fake, real, 3)


def test_too_few_points_are_refused():
    with pytest.raises(
        ValueError, match=r"metrics\.neighbours=3 needs more than 3 generated and real images each, not 3"
    ):
        manifold(torch.randn(3, 2), 3)


def test_squared_distances_are_accurate_far_from_the_origin():
    """In float32 the product would lose all digits: |x|^2 is 1e8 times the distance."""
    x, others = 1000 + torch.rand(20, 16), 1000 + torch.rand(30, 16)
    expected = (x[:, None].double() - others.double()).square().sum(2)
    torch.testing.assert_close(squared_distances(x, others), expected, rtol=1e-6, atol=1e-6)
    assert squared_distances(x, x).diagonal().tolist() == [0] * 20


@pytest.mark.parametrize("batch", [1, 7, 1024])
def test_nearest_distances_equal_a_loop_over_pairs(batch):
    x, others = torch.randn(20, 1, 3, 3), torch.randn(30, 1, 3, 3)
    others[3] = x[4]
    expected = torch.stack([torch.stack([(a - b).double().square().sum().sqrt() for b in others]).min() for a in x])
    found = nearest_distances(x, others.split(batch))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
    assert found[4] == 0
