r"""The exact log-likelihood of a denoiser, as a continuous normalising flow along its probability-flow ODE.

.. math:: \log p(u_0) = \log p(u_1) + \int \mathrm{tr} \frac{\partial v}{\partial u} d\phi, \qquad
    \frac{du}{d\phi} = v(u, \phi)

(instantaneous change of variables: arXiv:1806.07366; arXiv:2011.13456, section 4.3). The ODE is that of
:mod:`~diffsweep.diffusion.probability_flow`: :math:`u = x_t / \sqrt{\alpha_t^2 + \sigma_t^2}`, and :math:`\phi` is
the angle of the noise level. It leads from data :math:`u_0` to noise :math:`u_1`, whose density is Gaussian.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from diffsweep.diffusion.bound import log_normal_density
from diffsweep.diffusion.condition import Condition
from diffsweep.diffusion.denoiser import PlainDenoiser
from diffsweep.diffusion.noise import Noise, Stream
from diffsweep.diffusion.probability_flow import integrate, log_snr_of, velocity

Divergence = Literal["exact", "hutchinson"]


class LogLikelihood(NamedTuple):
    """The log-likelihood of each of B samples, and the number of network evaluations that it took.

    Attributes:
        nats: log p(x_0) in nats, (B,).
        calls: the number of network evaluations, each of the whole batch.
    """

    nats: Tensor
    calls: int


def ode_log_likelihood(
    denoiser: PlainDenoiser,
    x_0: Tensor,
    cond: Condition | None = None,
    divergence: Divergence = "exact",
    noise: Noise | None = None,
    tolerance: float = 1e-5,
    start: float | None = None,
    progress: Callable[[int], object] | None = None,
) -> LogLikelihood:
    """Return log p(x_0) in nats, by solving the probability-flow ODE from data to noise.

    Args:
        denoiser: the model; differentiable in x.
        x_0: continuous data, (B, ...); to discrete data, add uniform noise first (:func:`dequantised`).
        cond: the condition of each sample; None for none.
        divergence: how the trace of dv/du is computed, with the ODE's velocity v of the state u. ``exact``: one
            backward pass for each dimension; ``hutchinson``: an unbiased estimate by one, with random signs from
            ``noise``.
        noise: the source of the random signs, for ``hutchinson``.
        tolerance: relative and absolute, of the adaptive solver (dopri5 of torchdiffeq).
        start: the time t at which the data are taken as x_t; by default the schedule's t_min.
        progress: called after each network evaluation with the number of evaluations so far.

    Raises:
        ValueError: ``hutchinson`` without noise.
        FloatingPointError: the solver finds no step that meets the tolerance.
    """
    if divergence == "hutchinson" and noise is None:
        raise ValueError("the Hutchinson estimate needs noise")
    schedule = denoiser.schedule
    ends = torch.tensor([schedule.t_min if start is None else start, schedule.t_max], dtype=torch.float64)
    with torch.no_grad():
        (alpha_0, alpha_1), (sigma_0, sigma_1) = (value.tolist() for value in schedule(ends))
    signs = None if divergence == "exact" else torch.sign(noise.like(x_0, Stream.PROBE))  # type: ignore[union-attr]
    calls = 0

    def rate(phi: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        at = schedule.at_log_snr(log_snr_of(float(phi)))
        with torch.enable_grad():
            u = state[0].detach().requires_grad_()
            v = velocity(denoiser(math.hypot(at.alpha, at.sigma) * u, at.t, cond), float(phi))
            if signs is not None:
                (product,) = torch.autograd.grad((v * signs).sum(), u)
                trace = (product * signs).flatten(1).sum(1)
            else:
                trace = _trace(v, u)
        if progress is not None:
            progress(calls)
        return v.detach(), trace

    norm_0 = math.hypot(alpha_0, sigma_0)
    state = (x_0 / norm_0, torch.zeros(len(x_0), dtype=x_0.dtype, device=x_0.device))
    angles = math.atan2(sigma_0, alpha_0), math.atan2(sigma_1, alpha_1)
    with torch.no_grad():
        u, trace = integrate(rate, *angles, state, x_0.device, tolerance)
    log_variance = torch.full_like(u, 2 * math.log(sigma_1 / math.hypot(alpha_1, sigma_1)))
    base = log_normal_density(u, torch.zeros_like(u), log_variance).flatten(1).sum(1)
    return LogLikelihood(base + trace - math.log(norm_0) * x_0[0].numel(), calls)


def _trace(v: Tensor, u: Tensor) -> Tensor:
    """Return the trace of dv/du of each sample, (B,), by a backward pass for each dimension."""
    flat = v.flatten(1)
    total = torch.zeros(len(u), dtype=u.dtype, device=u.device)
    for i in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, i].sum(), u, retain_graph=i + 1 < flat.shape[1])
        total = total + row.flatten(1)[:, i]
    return total


def dequantised(x_0: Tensor, levels: int, noise: Noise) -> Tensor:
    """Return data of ``levels`` equally spaced values on [-1, 1], each moved within its bin by uniform noise, like x_0.

    A bin reaches half a spacing, 1 / (levels - 1), to each side of its value.
    """
    u = noise.uniform(*x_0.shape[1:], stream=Stream.DEQUANTISE, dtype=x_0.dtype).to(x_0.device)
    return x_0 + (2 * u - 1) / (levels - 1)


def bits_per_dim(nats: Tensor, dimensions: int, levels: int | None) -> Tensor:
    r"""Return the bits per dimension of a log-density, :math:`-\log_2 p / D`, (B,).

    For data of L levels the log of a bin's width is subtracted, :math:`\log_2(2 / (L - 1))`, so that the bits are those
    of the probability of a bin.

    Args:
        nats: log p, (B,).
        dimensions: D, the count of numbers in a sample.
        levels: L, the number of equally spaced values on [-1, 1] that the data take; None for continuous data.
    """
    bits = -nats / (dimensions * math.log(2))
    return bits if levels is None else bits - math.log2(2 / (levels - 1))
