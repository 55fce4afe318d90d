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
    """A stand-in for standard normal noise in the plane: the four points (+-1, +-1), repeated over the rows of x.

    The mean of a quadratic function over these points is its expectation under the normal distribution, exactly. So x
    must have a multiple of four rows, (4 N, 2).
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
    """Yield checks that the expected variational bound of Gaussian data is not below their entropy, in bits/dim.

    The data are two independent Gaussian numbers with their exact denoiser. The first check is of the chosen
    prediction's variances of reverse steps. The second is of the best variances: with these the bound must also exceed
    the entropy by no more than its prior term and 1e-3.
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
    """A denoiser of independent Gaussian numbers whose ``variance_mix`` gives the true variance of each reverse step.

    The true variance of x_s given x_t is the variance of q(x_s | x_t, x_0) plus that which the unknown x_0 adds.

    Args:
        denoiser: the exact denoiser, whose x0 and eps are kept.
        variances: the variances of the numbers, (D,).
        times: the times of the chain of the bound, decreasing from 1 to 0; the denoiser can be evaluated at these only.
    """

    def __init__(self, denoiser: Denoiser, variances: Tensor, times: Tensor) -> None:
        super().__init__(denoiser.schedule, denoiser.prediction, denoiser.noise)
        self.denoiser, up = denoiser, times.flip(0)
        first = torch.arange(len(up) - 1) == 0
        step = step_between(self.schedule, up[:-1], up[1:], to_clean=first)
        link = chain(self.schedule, step, first, float(up[1]), float(up[min(2, len(up) - 1)]))
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
