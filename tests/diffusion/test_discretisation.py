"""Neighbouring times of consistency models: numbers of levels, decays, densities and intervals of the papers."""

import math

import pytest
import torch

from diffsweep.diffusion import Doubling, Grid, Growing, Shrinking
from diffsweep.schedules import EDM, VE, Cosine, CosineContinuous, Flow

U = torch.linspace(0, 1, 4001, dtype=torch.float64)[:-1]


def test_a_grid_has_the_levels_of_edm():
    """sigma_i = (sigma_max^(1/7) + i / (N - 1) (sigma_min^(1/7) - sigma_max^(1/7)))^7 (arXiv:2303.01469, app. C)."""
    pairs = Grid(levels=18).pairs(EDM(), U, 0.0, lowest=0.002)
    i = torch.arange(18, dtype=torch.float64)
    sigma = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(80 * pairs.t.unique().flip(0), sigma[:-1])
    torch.testing.assert_close(80 * pairs.s.unique().flip(0), sigma[1:])
    counts = torch.bincount(torch.searchsorted(sigma.flip(0) * (1 + 1e-9), 80 * pairs.t))
    assert (counts[counts > 0] - len(U) / 17).abs().max() <= 1


SCHEDULES = {type(each).__name__: each for each in (Cosine(1000), CosineContinuous(), VE(), Flow(), EDM())}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
@pytest.mark.parametrize("kind", [Grid(7), Growing(), Doubling(2, 16), Shrinking()], ids=lambda d: type(d).__name__)
def test_intervals_lie_below_their_times_and_end_at_clean_data(schedule, kind):
    for progress in (0.0, 0.6, 1.0):
        t, s, to_clean, weight = kind.pairs(schedule, U, progress)
        assert ((s < t) | to_clean).all()
        assert (weight >= 0).all()
        assert (s[to_clean] == 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
@pytest.mark.parametrize("kind", [Grid(7), Growing()], ids=lambda d: type(d).__name__)
def test_each_interval_of_a_grid_ends_where_the_next_begins(schedule, kind):
    for progress in (0.0, 0.6, 1.0):
        t, s, to_clean, _ = kind.pairs(schedule, U, progress)
        assert len(t.unique()) == kind.levels(progress) - 1
        assert torch.equal(s[~to_clean].unique(), t.unique()[:-1])
        assert to_clean.any()


@pytest.mark.parametrize(("first", "last", "mu"), [(2, 150, 0.9), (2, 200, 0.95), (10, 1280, 0.5)])
def test_growing_levels_and_decays_are_those_of_the_paper(first, last, mu):
    growing = Growing(first, last, mu=mu)
    for k in range(0, 1001, 7):
        n = math.ceil(math.sqrt(k / 1000 * ((last + 1) ** 2 - first**2) + first**2) - 1) + 1
        assert growing.levels(k / 1000) == n
        assert growing.decay(k / 1000) == pytest.approx(math.exp(first * math.log(mu) / n))
    assert (growing.levels(0.0), growing.levels(1.0)) == (first, last + 1)


def test_levels_double_as_in_the_paper():
    doubling, steps = Doubling(10, 1280), 400_000
    period = math.floor(steps / (math.log2(1280 // 10) + 1))
    for k in range(0, steps, 9973):
        assert doubling.levels(k / steps) == min(10 * 2 ** (k // period), 1280) + 1
    assert doubling.decay(0.5) == 0


def test_doubling_draws_the_discretised_log_normal():
    """p_i is proportional to erf((log s_(i+1) - m) / (2^0.5 d)) - erf((log s_i - m) / (2^0.5 d))."""
    doubling, u = Doubling(10, 20, mean=-1.1, std=2.0), (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    pairs = doubling.pairs(EDM(), u, 0.0, lowest=0.002)
    sigma = (0.002 ** (1 / 7) + torch.arange(11, dtype=torch.float64) / 10 * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    cumulative = torch.erf((sigma.log() + 1.1) / (math.sqrt(2) * 2.0))
    expected = cumulative.diff() / cumulative.diff().sum()
    found = torch.stack([(80 * pairs.t / upper - 1).abs().lt(1e-6).double().mean() for upper in sigma[1:]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(pairs.weight, 1 / (80 * pairs.t - 80 * pairs.s), rtol=1e-9, atol=0)


def test_intervals_shrink_as_in_the_paper():
    """r_s / r_t = 1 - n(r_t) / q^a, n(r) = 1 + k / (1 + exp(b r)), a = 1, 2, ... (arXiv:2406.14548)."""
    shrinking, schedule = Shrinking(q=2.0, stages=4, k=8.0, b=1.0), EDM()
    for stage in range(4):
        pairs = shrinking.pairs(schedule, U[1:], (stage + 0.5) / 4)
        r = 80 * pairs.t
        ratio = (1 - (1 + 8 / (1 + r.exp())) / 2 ** (stage + 1)).clamp(min=0)
        torch.testing.assert_close(80 * pairs.s, r * ratio, rtol=1e-9, atol=1e-12)
    first = shrinking.pairs(schedule, U[1:], 0.0)
    assert first.to_clean[80 * first.t < 1].all()  # the loss of a diffusion model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grid(levels=1), "levels must be at least 2"),
        (lambda: Grid(spacing="leading"), "spacing is one of karras"),
        (lambda: Grid(mu=1.0), r"mu must be in \[0, 1\)"),
        (lambda: Grid(weight="two"), "weight is one of one, inverse"),
        (lambda: Growing(first=9, last=4), "2 <= first <= last"),
        (lambda: Doubling(first=0), "1 <= first <= last"),
        (lambda: Doubling(std=0.0), "std above 0"),
        (lambda: Shrinking(q=1.0), "q above 1"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
