r"""The probability-flow ODE :math:`du / d\phi = \cos\phi \; \epsilon - \sin\phi \; x_0`, and its adaptive solution.

Here :math:`\phi = \mathrm{atan2}(\sigma_t, \alpha_t)` is the angle of the noise level, from 0 (data) to
:math:`\pi / 2` (noise), and :math:`u = x_t / \sqrt{\alpha_t^2 + \sigma_t^2}`. The functions :math:`x_0` and
:math:`\epsilon` are the denoiser's estimates at x_t. In these coordinates the ODE is the same for every schedule and
finite at both ends (DDIM, arXiv:2010.02502; the right-hand side is the v of arXiv:2202.00512).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffsweep.diffusion.denoiser import Denoised


def velocity(denoised: Denoised, angle: float) -> Tensor:
    r"""Return the right-hand side :math:`du / d\phi = \cos\phi \; \epsilon - \sin\phi \; x_0` of the ODE, like x0.

    Args:
        denoised: the denoiser's estimates of x_0 and eps at the noise level of the angle.
        angle: :math:`\phi = \mathrm{atan2}(\sigma_t, \alpha_t)`.
    """
    return (denoised.eps * math.cos(angle)).sub_(denoised.x0, alpha=math.sin(angle))


def log_snr_of(angle: float) -> float:
    r"""Return the log-SNR at a noise level's angle atan2(sigma, alpha) above 0, :math:`-2 \log\tan\phi`."""
    return -2 * math.log(math.tan(angle))


def integrate(
    rate: Callable[[Tensor, Any], Any], begin: float, end: float, state: Any, device: torch.device, tolerance: float
) -> Any:
    """Return the state of an ODE at the angle ``end``, by the adaptive solver dopri5 of torchdiffeq.

    Args:
        rate: the right-hand side, called as ``rate(angle, state)`` with the angle as a tensor ().
        begin, end: the noise levels' angles, atan2(sigma, alpha), between which to solve; either may be the larger one.
        state: the state at ``begin``: a tensor, or a tuple of tensors.
        device: the device of the state.
        tolerance: the relative and absolute tolerance of the solver.

    Raises:
        FloatingPointError: no step is small enough to meet the tolerance.
    """
    from torchdiffeq import odeint

    angles = torch.tensor([begin, end], dtype=torch.float64, device=device)
    # The schedule may not be defined beyond the interval, so the first trial step and the last step stay inside.
    options = {"step_t": angles[-1:], "first_step": min(abs(end - begin), 0.1)}
    try:
        path = odeint(rate, state, angles, rtol=tolerance, atol=tolerance, method="dopri5", options=options)
    except AssertionError as error:  # raised where no step is small enough
        raise FloatingPointError(
            f"the adaptive solver finds no step that meets its tolerance of {tolerance:.2g} between the angles "
            f"{begin:.4g} and {end:.4g} ({error}): the denoiser's output is not finite, or the tolerance is too tight"
        ) from error
    return path[-1] if isinstance(path, Tensor) else tuple(part[-1] for part in path)
