"""Euler's method with ancestral noise: k-diffusion's."""

import math

from diffsweep.samplers.base import Clip, Spacing
from diffsweep.samplers.ddim import DDIM


class EulerAncestral(DDIM):
    r"""Euler's step down to less noise than s has, and new noise up to s (k-diffusion's ``sample_euler_ancestral``). With :math:`r = \sigma / \alpha`:

    .. math:: x_s = \alpha_s (x_0 + r_{down} \epsilon + s_{noise} r_{up} z), \quad
        r_{up} = \eta \, \frac{r_s}{r_t} \sqrt{r_t^2 - r_s^2}, \quad r_{down} = \sqrt{r_s^2 - r_{up}^2}.

    :math:`\alpha_s r_{up}` is eta times the posterior's standard deviation, so with s_noise = 1 this is the walk of
    :class:`~diffsweep.samplers.DDIM` of the same eta (arXiv:2010.02502, eq. 16): eta = 1 is DDPM's step with the small variance, eta = 0 Euler's.

    Kept on purpose: k-diffusion takes any eta and caps :math:`r_{up}` at :math:`r_s`; here eta is at most 1.

    Args:
        eta: in [0, 1], the share of the posterior's standard deviation that is drawn anew; 0 is deterministic.
        s_noise: the size of that noise: its temperature, 1 for as much as the level asks for.
        steps, spacing, start, stop, clip: see :class:`~diffsweep.samplers.base.Sampler`.
    """

    def __init__(
        self,
        eta: float = 1.0,
        s_noise: float = 1.0,
        steps: int = 50,
        spacing: Spacing = "uniform",
        start: float = 1.0,
        stop: float = 0.0,
        clip: Clip = "static",
    ) -> None:
        super().__init__(eta, steps, spacing, start, stop, clip)
        if not 0 <= s_noise < math.inf:
            raise ValueError(f"sampler.s_noise is at least 0 and finite, not {s_noise}")
        self.s_noise = s_noise
