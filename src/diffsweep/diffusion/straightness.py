r"""The straightness of a flow: how far its paths are from lines with constant velocity (Liu et al. 2022).

With :math:`v = \hat\epsilon - \hat x_0` the velocity of the flow, and (x_0, x_1) the two ends of a path of its ODE,

.. math:: S = \int_0^1 E \lVert (x_1 - x_0) - v(x_t, t) \rVert^2 dt.

S = 0 if and only if one step of Euler's method leads from x_1 to x_0 (arXiv:2209.03003).
"""

import torch
from torch import Tensor

from diffsweep.diffusion.condition import Condition
from diffsweep.diffusion.denoiser import Denoiser


def straightness(denoiser: Denoiser, eps: Tensor, cond: Condition | None = None, steps: int = 16) -> Tensor:
    r"""Return the integral over t of S for each path of the sampling ODE, (B,), a sum over the numbers of a sample.

    The path begins at :math:`x_1 = \sigma_1 \epsilon` and is solved to t = 0 by the midpoint method in equal steps; the
    integral is that of the midpoint rule. Its error is of the second order in the size of a step. For a schedule other
    than ``flow`` the displacement is :math:`\epsilon - x_0`, and S is 0 where the estimates of x_0 and eps stay the
    same along the path.

    Args:
        denoiser: the denoiser; its estimates must be finite for 0 < t <= 1.
        eps: standard normal noise, (B, ...).
        cond: the condition of each sample.
        steps: the number of steps; the denoiser is called twice in each, and never at t = 0.
    """
    times = torch.linspace(1, 0, 2 * steps + 1, dtype=torch.float64)  # the ends of the steps, and their middles
    alphas, sigmas = (level.tolist() for level in denoiser.schedule(times))
    x, velocities = sigmas[0] * eps, []
    for begin in range(0, 2 * steps, 2):
        middle, end = begin + 1, begin + 2
        here = denoiser(x, times[begin], cond)
        half = x + (alphas[middle] - alphas[begin]) * here.x0 + (sigmas[middle] - sigmas[begin]) * here.eps
        ahead = denoiser(half, times[middle], cond)
        x = x + (alphas[end] - alphas[begin]) * ahead.x0 + (sigmas[end] - sigmas[begin]) * ahead.eps
        velocities.append(ahead.eps - ahead.x0)
    return torch.stack([((eps - x) - v).square().flatten(1).sum(1) for v in velocities]).mean(0)
