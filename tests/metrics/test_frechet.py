"""The Frechet distance by eigenvalues of a symmetric matrix, compared with torchmetrics, scipy and closed forms."""

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from diffsweep.metrics.frechet import RealMoments, frechet_distance, moments


class Identity(nn.Module):
    """The features themselves, which torchmetrics takes for those of a network."""

    def __init__(self, num_features):
        super().__init__()
        self.num_features = num_features

    def forward(self, features):
        return features


def by_torchmetrics(fake, real):
    metric = FrechetInceptionDistance(feature=Identity(real.shape[1]))
    metric.set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute())


def draws(count, width, seed, scale=1.0, shift=0.0):
    """Return features (N, D) whose covariance has eigenvalues from 1 down to 1e-6, in random directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
    std = torch.logspace(0, -3, width, dtype=torch.float64) * scale
    return torch.randn(count, width, generator=generator, dtype=torch.float64) * std @ directions + shift


@pytest.mark.parametrize(("count", "width"), [(400, 30), (200, 200), (120, 300)])
def test_it_equals_torchmetrics_also_with_singular_covariances(count, width):
    """Of 120 samples the covariance of 300 features has the rank 119."""
    fake, real = draws(count, width, 0, 1.3, 0.02), draws(count + 37, width, 1)
    assert frechet_distance(fake, real) == pytest.approx(by_torchmetrics(fake, real), rel=1e-5)


@pytest.mark.parametrize("count", [5, 40])
def test_of_few_samples_it_is_the_nuclear_norm_of_the_products(count):
    """tr (S S')^(1/2) is the sum of the singular values of X Y^T / sqrt((n - 1) (m - 1)) of centred features."""
    fake, real = draws(count, 150, 2, 1.5), draws(count + 9, 150, 3)
    x, y = fake - fake.mean(0), real - real.mean(0)
    root = torch.linalg.svdvals(x @ y.T).sum() / ((len(x) - 1) * (len(y) - 1)) ** 0.5
    traces = x.square().sum() / (len(x) - 1) + y.square().sum() / (len(y) - 1)
    expected = float((fake.mean(0) - real.mean(0)).square().sum() + traces - 2 * root)
    assert frechet_distance(fake, real) == pytest.approx(expected, rel=1e-5)


def test_constant_features_have_distance_0_and_a_shift_is_its_square():
    real = torch.full((30, 7), 0.1)
    assert frechet_distance(real, real) == 0
    assert frechet_distance(real + 2, real) == pytest.approx(28, rel=1e-6)
    assert frechet_distance(real[:, :1], real[:, :1]) == 0


def test_equal_samples_have_a_distance_near_0_that_is_no_nan():
    real = draws(90, 200, 4).float()
    assert frechet_distance(real, real.clone()) == pytest.approx(0, abs=1e-5)


def test_neither_the_order_nor_the_batches_of_samples_change_it():
    fake, real = draws(200, 60, 5).float(), draws(300, 60, 6).float()
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    expected = frechet_distance(fake, real)
    assert frechet_distance(fake[order], real.flip(0)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)


def test_known_moments_replace_real_features():
    fake, real = draws(100, 20, 7), draws(150, 20, 8)
    found = RealMoments.given(moments(real)).distance(*moments(fake))
    assert float(found) == pytest.approx(frechet_distance(fake, real), rel=1e-9)
    np.testing.assert_allclose(moments(real).cov.numpy(), np.cov(real.numpy().T), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused(value):
    real = draws(50, 4, 9)
    broken = real.clone()
    broken[[3, 7], 1] = value
    for pair in ((broken, real), (real, broken)):
        with pytest.raises(FloatingPointError, match="features of 2 of 50 samples are NaN or infinite"):
            frechet_distance(*pair)


def test_one_sample_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 samples, not 1"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(4, 3))
