r"""The replacement method: of a measurement that is known, every estimate has the right value, :math:`x_0 \leftarrow x_0 + A^+ (y - A x_0)`."""

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, Known, PlainDenoiser, expand_to
from diffsweep.guidance.base import Guidance


class Replacement(Guidance):
    r"""The replacement method (Song et al. 2021, arXiv:2011.13456, section 5 and appendix I.2; so named by Ho et al. 2022, arXiv:2204.03458).

    Of samples a linear measurement :math:`y = A x_0` is known, ``cond.known``: frames of a clip, pixels under a mask, means of squares. The
    estimate becomes the nearest x0 whose measurement is y,

    .. math:: x_0 + A^+ (y - A x_0).

    Where frames or pixels :math:`x^a` are known, they take the place of the denoiser's, so that every sampler moves them along

    .. math:: x_t^a = \alpha_t x^a + \sigma_t \epsilon^a, \quad \epsilon^a = (x_t^a - \alpha_t x^a) / \sigma_t

    and the denoiser sees them with the noise of their time. A deterministic walk keeps :math:`\epsilon^a` of each sample
    as the start drew it; a stochastic one draws :math:`x_s^a` from :math:`q(x_s^a | x_t^a, x^a)`, the second of the two forms in
    arXiv:2204.03458. So :math:`\epsilon^a` is read off the x_t at hand and not keyed: it needs no memory between steps, belongs to the
    sample and not to the batch, and is as well defined at a solver's inner points. (The start, pure noise, lacks :math:`\alpha_1 x^a`, as it
    does for the rest.)

    The rest gets :math:`E[x^b | x_t]` where :math:`E[x^b | x_t, x^a]` is right: samples fit what is known of them too little.
    :class:`~diffsweep.guidance.Reconstruction` adds what is missing. Where nothing is known it is the denoiser.

    Args:
        denoiser: the denoiser that is guided.
        times: not used; every guidance takes them.
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
    """Return the estimate with another x0, projected onto what is known; eps follows, and is left where sigma is 0.

    Args:
        denoised: of a denoiser.
        x0: in place of its x0.
        known: a measurement and its value.
        alpha, sigma: the level, of the shape of t.
    """
    ratio = expand_to(torch.where(sigma == 0, 0.0, alpha / sigma), x0)
    x0 = known.project(x0)
    # By the difference: rows of which nothing is known stay as they are, bit for bit.
    return Denoised(x0, denoised.eps - ratio * (x0 - denoised.x0), denoised.variance_mix)
