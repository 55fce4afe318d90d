"""The measures that proofs use: exact moments, distances in closed form, slopes."""

import math

import pytest
import torch
from scipy import stats

from diffsweep.diffusion import V
from diffsweep.proofs import Subject
from diffsweep.proofs.data import COVARIANCE, MEAN
from diffsweep.proofs.distances import sliced_wasserstein, slope, wasserstein
from diffsweep.proofs.moments import moments
from diffsweep.samplers import Ancestral
from diffsweep.schedules import Linear


@pytest.mark.parametrize("start", [1.0, 0.4])
def test_the_exact_moments_are_those_of_many_samples(start):
    subject = Subject(Linear(1000), V(), Ancestral(steps=20, start=start, clip="none"))
    mean, covariance = moments(subject.gaussian, subject.sampler, MEAN, COVARIANCE)
    denoiser = subject.gaussian
    alpha, sigma = subject.schedule(torch.tensor(start).double())
    z = torch.randn(40_000, 2, dtype=torch.float64)
    x = sigma * z
    if start < 1:
        x = x + alpha * denoiser.denoiser.sample(len(x))
    x = subject.sampler(denoiser, x)
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.01)
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0, atol=0.003)


def test_distances_are_those_of_closed_forms():
    """These are Gaussians with commuting covariances, points against scipy, and a slope."""
    a, b = torch.diag(torch.tensor([4.0, 1.0])).double(), torch.diag(torch.tensor([1.0, 9.0])).double()
    shift = torch.tensor([3.0, 0.0]).double()
    assert wasserstein(shift, a, 0 * shift, b) == pytest.approx(math.sqrt(9 + 1 + 4))
    assert wasserstein(MEAN, COVARIANCE, MEAN, COVARIANCE) == pytest.approx(0, abs=1e-7)
    x, y = torch.randn(2, 300, 2).double().unbind()
    assert sliced_wasserstein(x, x + shift) == pytest.approx(3 / math.sqrt(2), rel=1e-6)
    assert stats.wasserstein_distance(x[:, 0], y[:, 0]) <= float(
        (x[:, 0].sort().values - y[:, 0].sort().values).square().mean().sqrt()
    )
    assert slope([1, 2, 4], [3, 3 / 8, 3 / 64]) == pytest.approx(-3)
    assert math.isnan(slope([1], [2.0]))
