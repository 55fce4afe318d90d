"""Intervals of FID, errors of KID and FID at infinity, against closed forms and simulations of Gaussian features."""

import math

import pytest
import torch

from diffsweep.metrics.distances import kernel_distance
from diffsweep.metrics.frechet import RealMoments, frechet_distance
from diffsweep.metrics.uncertainty import (
    STANDARD_ERRORS,
    fewest_at_infinity,
    frechet_at_infinity,
    frechet_error,
    kernel_error,
    resampled,
)


def draws(count, dimension, seed, scale=1.0, shift=0.0):
    """Return Gaussian features (N, D) with standard deviations scale / sqrt(1 to D), and a mean of norm shift."""
    generator = torch.Generator().manual_seed(seed)
    std = scale * torch.arange(1, dimension + 1).double() ** -0.5
    return torch.randn(count, dimension, generator=generator, dtype=torch.float64) * std + shift / dimension**0.5


def true_distance(dimension, scale, shift):
    """Return FID of draws of a scale and shift from those of scale 1: |shift|^2 + (scale - 1)^2 tr Sigma."""
    return shift**2 + (scale - 1) ** 2 * sum(1 / (1 + k) for k in range(dimension))


def test_distances_of_a_batch_of_moments_are_the_closed_form():
    """Diagonal covariances commute: the sum of (mean - mean')^2 and of (std - std')^2."""
    real = draws(400, 5, 0)
    real = (real - real.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(real.T.cov())).T  # moments 0 and 1 exactly
    means, std = torch.randn(3, 5).double(), torch.rand(3, 5).double() + 0.5
    found = RealMoments.of(real + 0.3).distance(means, torch.diag_embed(std**2))
    expected = (means - 0.3).square().sum(1) + (std - 1).square().sum(1)
    torch.testing.assert_close(found, expected)


def test_the_distance_of_the_samples_own_moments_is_fid():
    fake, real = draws(150, 12, 1, 1.3, 0.5), draws(200, 12, 2)
    assert float(RealMoments.of(real).distance(fake.mean(0), fake.T.cov())) == pytest.approx(
        frechet_distance(fake, real), rel=1e-6
    )


def test_resampled_moments_are_those_of_repeated_rows():
    x = draws(30, 4, 3, shift=2)
    counts = torch.randint(0, 4, (5, 30), generator=torch.Generator().manual_seed(0))
    means, covs = resampled(x, counts.double())
    for row, mean, cov in zip(counts, means, covs, strict=True):
        repeated = x.repeat_interleave(row, 0)
        torch.testing.assert_close(mean, repeated.mean(0))
        torch.testing.assert_close(cov, repeated.T.cov())


def test_the_interval_of_fid_in_one_dimension_is_that_of_the_delta_method():
    """FID = (m - m')^2 + (s - s')^2 has the variance (4 (m - m')^2 s^2 + 2 (s - s')^2 s^2) / N of normal samples."""
    fake, real = draws(2000, 1, 4, 2.0, 1.0), draws(100_000, 1, 5)
    m, s = float(fake.mean() - real.mean()), float(fake.std())
    expected = math.sqrt((4 * m**2 * s**2 + 2 * (s - float(real.std())) ** 2 * s**2) / 2000)
    assert frechet_error(fake, real, 2000) == pytest.approx(expected, rel=0.06)


def test_fid_at_infinity_recovers_the_true_distance():
    """A tenth of the bias of FID is left at most, in the mean over draws."""
    real = draws(100_000, 16, 6)
    for scale, shift in ((1.0, 0.0), (1.1, 0.3)):
        samples = [draws(800, 16, seed, scale, shift) for seed in range(12)]
        true = true_distance(16, scale, shift)
        bias = sum(frechet_distance(x, real) - true for x in samples) / 12
        found = torch.tensor([frechet_at_infinity(x, real, orders=3) - true for x in samples])
        assert bias > 0.01
        assert abs(float(found.mean())) < 0.1 * bias + 3 * float(found.std()) / 12**0.5
    assert fewest_at_infinity(16) == 96
    with pytest.raises(ValueError, match="at least 96 samples with 16 features, not 95"):
        frechet_at_infinity(samples[0][:95], real)


def test_the_error_of_kid_is_that_of_the_mean_of_a_linear_statistic():
    """Far from the reference KID is nearly linear in the samples: its error is the deviation over draws."""
    real = draws(500, 6, 7)
    samples = [draws(150, 6, seed, 1.2, 1.0) for seed in range(60)]
    found = torch.tensor([kernel_distance(x, real, 1, 150) for x in samples])  # the subset of real data adds noise
    whole = torch.tensor([_complete(x, real) for x in samples])
    errors = torch.tensor([kernel_error(x, real) for x in samples])
    assert float(errors.mean()) == pytest.approx(float(whole.std()), rel=0.25)
    assert found.std() > whole.std()
    big = samples[0].repeat(20, 1)  # more than are compared
    assert kernel_error(big, real, most=500) == pytest.approx(kernel_error(big, real, most=3000), rel=0.2)


def _complete(fake, real):
    """Return KID of all samples against all real ones, but for a constant of the real ones."""
    size, width = fake.shape
    own = (fake @ fake.T / width + 1) ** 3
    return float((own.sum() - own.trace()) / (size * (size - 1)) - 2 * ((fake @ real.T / width + 1) ** 3).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("count", "dimension", "scale", "shift"), [(400, 8, 1.0, 0.0), (400, 8, 1.2, 0.3)])
def test_the_interval_of_fid_covers_the_mean_of_other_samples(count, dimension, scale, shift):
    """In 95 % of simulations within binomial error, also if samples are as good as real data."""
    real = draws(20_000, dimension, 10**6)
    found, errors = [], []
    for seed in range(400):
        x = draws(count, dimension, seed, scale, shift)
        found.append(float(RealMoments.of(real).distance(x.mean(0), x.T.cov())))
        errors.append(frechet_error(x, real, 100))
    values, half = torch.tensor(found), STANDARD_ERRORS * torch.tensor(errors)
    covered = ((values - values.mean()).abs() <= half).double().mean()
    assert 0.95 - 3 * (0.95 * 0.05 / 400) ** 0.5 - 0.01 <= covered <= 0.99  # 100 resamples leave 7 % of the error
    assert float(torch.tensor(errors).mean()) == pytest.approx(float(values.std()), rel=0.15)
