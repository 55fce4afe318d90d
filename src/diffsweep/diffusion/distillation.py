r"""Targets of distillation: the estimates with which one step of DDIM goes where several steps of a teacher go.

A step of DDIM from :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon` ends at :math:`\alpha_s x_0 + \sigma_s \epsilon`. The
two equations have one solution :math:`x_0, \epsilon` for any :math:`x_t, x_s` with s < t,

.. math:: x_0 = \frac{\sigma_t x_s - \sigma_s x_t}{\alpha_s \sigma_t - \alpha_t \sigma_s}, \qquad
    \epsilon = \frac{\alpha_s x_t - \alpha_t x_s}{\alpha_s \sigma_t - \alpha_t \sigma_s}.

It is finite at both ends, where no signal is left (:math:`\alpha_t = 0`) and at clean data (:math:`\sigma_s = 0`).
"""

from torch import Tensor

from diffsweep.diffusion.denoiser import Denoised
from diffsweep.diffusion.process import expand_to
from diffsweep.schedules import Level


def leading_to(x_s: Tensor, at_s: Level[Tensor], x_t: Tensor, at_t: Level[Tensor]) -> Denoised:
    """Return the x_0 and eps with which one step of DDIM from ``x_t`` ends at ``x_s`` (arXiv:2202.00512, app. G).

    Args:
        x_s: samples at the end of the step, (B, ...).
        at_s: their noise levels, (B,) each.
        x_t: the samples at the beginning of the step, (B, ...).
        at_t: their noise levels, each above that of ``at_s``.
    """
    alpha_t, sigma_t = (expand_to(value, x_t) for value in at_t[1:])
    alpha_s, sigma_s = (expand_to(value, x_t) for value in at_s[1:])
    area = alpha_s * sigma_t - alpha_t * sigma_s
    return Denoised((sigma_t * x_s - sigma_s * x_t) / area, (alpha_s * x_t - alpha_t * x_s) / area)
