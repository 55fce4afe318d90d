r"""The replacement method: each estimate of x_0 is projected so that its measurement is the known one.

.. math:: x_0 \leftarrow x_0 + A^+ (y - A x_0)

y = A x_0 is a linear measurement of the sample, such as some frames of a clip or the pixels under a mask, and
:math:`A^+` the pseudo-inverse of A. After the projection :math:`A x_0 = y`.
"""

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, Known, PlainDenoiser, expand_to
from diffsweep.guidance.base import Guidance


class Replacement(Guidance):
    r"""Guidance that replaces the measured part of each estimate of x_0 by the measurement.

    See Song et al. 2021 (arXiv:2011.13456), section 5 and appendix I.2; Ho et al. 2022 (arXiv:2204.03458) named it the
    replacement method. A linear measurement :math:`y = A x_0` of each sample is given as ``cond.known``: frames of a
    clip, pixels under a mask, means of squares of pixels. The estimate becomes the nearest x0 whose measurement is y,

    .. math:: x_0 + A^+ (y - A x_0),

    with the pseudo-inverse :math:`A^+`.

    Known frames or pixels :math:`x^a` replace the denoiser's estimate of them, so every sampler moves them along

    .. math:: x_t^a = \alpha_t x^a + \sigma_t \epsilon^a, \quad \epsilon^a = (x_t^a - \alpha_t x^a) / \sigma_t,

    and the denoiser gets them with the noise of their time. In deterministic sampling :math:`\epsilon^a` stays what the
    first x drew; a stochastic sampler draws :math:`x_s^a` from :math:`q(x_s^a | x_t^a, x^a)`, the second of the two
    forms in arXiv:2204.03458. Since :math:`\epsilon^a` is computed from x_t, nothing is stored between steps, a sample
    does not depend on its batch, and :math:`\epsilon^a` is defined at the inner points of a solver's step too. (The
    first x is pure noise: it lacks :math:`\alpha_1 x^a`, and :math:`\alpha_1 x_0` of the rest.)

    The rest, :math:`x^b`, is estimated as :math:`E[x^b | x_t]` instead of :math:`E[x^b | x_t, x^a]`, so samples agree
    with the measurement too little; :class:`~diffsweep.guidance.Reconstruction` adds the missing term. Without a
    measurement the estimates are unchanged.

    Args:
        denoiser: the denoiser to guide.
        times: not used; it is accepted because guidances are called with the times of the sampler's steps.
    """

    neutral = 0.0
    requires = frozenset()
    provides = frozenset({"measurement"})

    def __init__(self, denoiser: Denoiser | PlainDenoiser, times: Tensor | None = None) -> None:
        super().__init__(denoiser, scale=1.0)

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        denoised = self.denoiser(x_t, t, cond)
        if cond is None or cond.known is None:
            return denoised
        return replaced(denoised, denoised.x0, cond.known, *self.schedule(t))


def replaced(denoised: Denoised, x0: Tensor, known: Known, alpha: Tensor, sigma: Tensor) -> Denoised:
    """Return an estimate with the x0 nearest to ``x0`` whose measurement A x0 is y, and the eps that follows from it.

    The new x0 and eps satisfy x_t = alpha x0 + sigma eps, as those of ``denoised`` do.

    Args:
        denoised: a denoiser's estimate at x_t.
        x0: the x0 to project, (B, ...), in place of that of ``denoised``.
        known: the measurement A and its value y.
        alpha, sigma: alpha and sigma at the time t, of the shape of t. Where sigma is 0, eps is unchanged.
    """
    ratio = expand_to(torch.where(sigma == 0, 0.0, alpha / sigma), x0)
    x0 = known.project(x0)
    # eps is changed by the difference, so samples without a measurement are unchanged, bit for bit.
    return Denoised(x0, denoised.eps - ratio * (x0 - denoised.x0), denoised.variance_mix)
