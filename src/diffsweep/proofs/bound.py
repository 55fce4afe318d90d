"""The proof that the variational bound of Gaussian data is an upper bound of their entropy."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from diffsweep.diffusion import (
    AsPredicted,
    Condition,
    Denoised,
    Denoiser,
    GaussianDenoiser,
    Noise,
    Stream,
    step_between,
    variational_bound,
)
from diffsweep.diffusion.bound import chain, chain_times
from diffsweep.proofs.base import Check, Subject, proof
from diffsweep.proofs.data import COVARIANCE, MEAN

SIGNS = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)


class Signs(Noise):
    """A stand-in for standard normal noise in the plane: the four points (+-1, +-1).

    The mean of a quadratic function over them is its expectation under the normal distribution, exactly.
    """

    at_once = 0

    def __init__(self) -> None:
        super().__init__(0, torch.empty(0, dtype=torch.int64))

    def at(self, step: int | Tensor) -> "Signs":
        return self

    def like(self, x: Tensor, stream: Stream = Stream.STEP) -> Tensor:
        return SIGNS.repeat(len(x) // len(SIGNS), 1)


@proof(place=40)
def bound(subject: Subject) -> Iterator[Check]:
    """Compare the expected variational bound of Gaussian data with their entropy.

    The bound must never be below the entropy. Where each reverse step has its best variance, it must be equal, up to
    the bound's prior term.
    """
    schedule, variances = subject.schedule, COVARIANCE.diagonal()
    exact = AsPredicted(GaussianDenoiser(schedule, MEAN, torch.diag(variances)), subject.prediction)
    entropy = float(0.5 * (2 * math.pi * math.e * variances).log2().mean())
    x_0 = (MEAN + variances.sqrt() * SIGNS).repeat_interleave(4, 0)  # (16, 2)
    times = chain_times(schedule)
    for name, data in (("chosen", exact), ("best", BestVariance(exact, variances, times))):
        measured = variational_bound(data, x_0, times, Signs())
        gap, mismatch = float(measured.total.mean()) - entropy, float(measured.prior.mean())
        most = mismatch + 1e-3 if name == "best" else None
        yield Check(f"bound - entropy, {name} variance, {len(times) - 1} steps, bits/dim", gap, least=-1e-4, most=most)


class BestVariance(Denoiser):
    """A denoiser of independent Gaussian numbers whose ``variance_mix`` gives the true variance of a reverse step.

    It is the variance of q(x_s | x_t, x_0) plus that which the unknown x_0 given x_t adds.
    """

    def __init__(self, denoiser: Denoiser, variances: Tensor, times: Tensor) -> None:
        super().__init__(denoiser.schedule, denoiser.prediction, denoiser.noise)
        self.denoiser, up = denoiser, times.flip(0)
        first = torch.arange(len(up) - 1) == 0
        step = step_between(self.schedule, up[:-1], up[1:], to_clean=first)
        link = chain(self.schedule, step, first, up[1], up[min(2, len(up) - 1)])
        gain = torch.where(step.at_s.sigma > 0, step.from_x_0, 1.0)
        alpha, sigma, small, large, gain, var_post = (
            value[:, None] for value in (*step.at_t[1:], link.log_small, link.log_large, gain, step.var_post)
        )
        unknown = variances * sigma**2 / (alpha**2 * variances + sigma**2)  # (K, D), the variance of x_0 given x_t
        best = var_post + gain**2 * unknown
        mix = torch.where(large > small, (best.log() - small) / (large - small), 0.0)
        self.mix = dict(zip(up[1:].tolist(), mix, strict=True))

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        return self.denoiser(x_t, t, cond)._replace(variance_mix=self.mix[float(t)].expand_as(x_t))
