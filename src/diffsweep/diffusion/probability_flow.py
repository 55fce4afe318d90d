r"""The probability-flow ODE in the angle, and its adaptive solution.

In :math:`\phi = \mathrm{atan2}(\sigma, \alpha)` and :math:`u = x_t / \sqrt{\alpha^2 + \sigma^2}` the ODE of every schedule is

.. math:: \frac{du}{d\phi} = \cos\phi \; \epsilon - \sin\phi \; x_0,

finite at both ends (DDIM, arXiv:2010.02502; the right-hand side is the v of arXiv:2202.00512).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffsweep.diffusion.denoiser import Denoised


def velocity(denoised: Denoised, angle: float) -> Tensor:
    r""":math:`du / d\phi`."""
    return (denoised.eps * math.cos(angle)).sub_(denoised.x0, alpha=math.sin(angle))


def log_snr_of(angle: float) -> float:
    """The log-SNR at an angle above 0."""
    return -2 * math.log(math.tan(angle))


def integrate(
    rate: Callable[[Tensor, Any], Any], begin: float, end: float, state: Any, device: torch.device, tolerance: float
) -> Any:
    """The state at the angle ``end``, by dopri5 of torchdiffeq.

    Args:
        rate: the slope at ``(angle, state)``.
        begin, end: angles.
        state: at ``begin``: a tensor, or several.
        device: where it lies.
        tolerance: relative and absolute.
    """
    from torchdiffeq import odeint

    angles = torch.tensor([begin, end], dtype=torch.float64, device=device)
    # The last step ends at the end, and the first is a trial inside the interval: angles beyond it may not exist.
    options = {"step_t": angles[-1:], "first_step": min(abs(end - begin), 0.1)}
    try:
        path = odeint(rate, state, angles, rtol=tolerance, atol=tolerance, method="dopri5", options=options)
    except AssertionError as error:  # its way to say that no step is small enough
        raise FloatingPointError(
            f"the adaptive solver finds no step that meets its tolerance of {tolerance:.2g} between the angles {begin:.4g} and "
            f"{end:.4g} ({error}): the denoiser's output there is not finite, or the tolerance is too tight"
        ) from error
    return path[-1] if isinstance(path, Tensor) else tuple(part[-1] for part in path)
