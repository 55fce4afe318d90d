"""Euler's method with ancestral noise: k-diffusion's."""

from diffsweep.samplers.base import Clip, Spacing
from diffsweep.samplers.ddim import DDIM


class EulerAncestral(DDIM):
    r"""Euler's step down to less noise than s has, and new noise up to s (k-diffusion's ``sample_euler_ancestral``). With :math:`r = \sigma / \alpha`:

    .. math:: x_s = \alpha_s (x_0 + r_{down} \epsilon + r_{up} z), \quad
        r_{up} = \eta \, \frac{r_s}{r_t} \sqrt{r_t^2 - r_s^2}, \quad r_{down} = \sqrt{r_s^2 - r_{up}^2}.

    :math:`\alpha_s r_{up}` is eta times the posterior's standard deviation, so this is the walk of
    :class:`~diffsweep.samplers.DDIM` of the same eta (arXiv:2010.02502, eq. 16): eta = 1 is DDPM's step with the small variance, eta = 0 Euler's.

    Kept on purpose: k-diffusion takes any eta and caps :math:`r_{up}` at :math:`r_s`; here eta is at most 1. Its s_noise is our ``temperature``.

    Args:
        eta: in [0, 1], the share of the posterior's standard deviation that is drawn anew; 0 is deterministic.
        steps, spacing, start, stop, clip, temperature: see :class:`~diffsweep.samplers.base.Sampler`.
    """

    def __init__(
        self,
        eta: float = 1.0,
        steps: int = 50,
        spacing: Spacing = "uniform",
        start: float = 1.0,
        stop: float = 0.0,
        clip: Clip = "static",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(eta, steps, spacing, start, stop, clip, temperature)
