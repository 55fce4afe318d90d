r"""PLMS: the pseudo linear multistep solver of PNDM.

.. math:: x_s = \frac{\alpha_s}{\alpha_t} (x_t - \sigma_t \epsilon') + \sigma_s \epsilon', \quad
    \epsilon' = \tfrac{1}{24} (55 \epsilon_0 - 59 \epsilon_1 + 37 \epsilon_2 - 9 \epsilon_3)

is DDIM's step from t to s < t with the eps of the Adams-Bashforth method, from the eps at t (:math:`\epsilon_0`) and
those of the three steps before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from diffsweep.diffusion import Denoised, Step
from diffsweep.samplers.base import euler_step
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.samplers.exponential import Point
from diffsweep.samplers.heun import trapezoid
from diffsweep.samplers.lms import LinearMultistepSampler

_WEIGHTS = {
    2: [3 / 2, -1 / 2],
    3: [23 / 12, -16 / 12, 5 / 12],
    4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
}


@dataclass(kw_only=True, eq=False)
class PLMS(LinearMultistepSampler):
    r"""Sample with PLMS (Liu et al. 2022, arXiv:2202.09778), a multistep solver with the weights of equal steps.

    It is DDIM's step with the eps of the Adams-Bashforth method of order 4 for *equal* steps,

    .. math:: x_s = \frac{\alpha_s}{\alpha_t} (x_t - \sigma_t \epsilon') + \sigma_s \epsilon', \quad
        \epsilon' = \tfrac{1}{24} (55 \epsilon_0 - 59 \epsilon_1 + 37 \epsilon_2 - 9 \epsilon_3),

    from t to s < t, with :math:`\epsilon_0` the denoiser's eps at t and :math:`\epsilon_1, \epsilon_2, \epsilon_3`
    those of the three steps before. The second and third step use two and three eps. A step takes one network call; the
    first step takes two, and where sampling starts at alpha = 0 so does the second, since the first leaves no eps.

    The ODE's slope is eps in :math:`\sigma / \alpha`, in which steps equal in t are not equal, so the order is 2, not
    4, whatever the spacing. :class:`~diffsweep.samplers.LMS` computes the weights for the actual steps.

    Intended differences from the public codes (PNDM, latent-diffusion, diffusers). In their first step
    :math:`\epsilon'` is the mean of the eps at both ends of the step. Where alpha_t is nearly 0 (the cosine schedule),
    :math:`\alpha_s / \alpha_t` is large and multiplies the network's error. The default here is the trapezoid rule of
    :class:`~diffsweep.samplers.Heun`, of the same cost and order; ``public_form`` gives the published step. PNDM's own
    code starts with three pseudo Runge-Kutta steps instead; latent-diffusion, and diffusers with ``skip_prk_steps``,
    start as here.

    Args:
        public_form: take the first step as it is published; a step from alpha = 0, where the published one is
            infinite, stays the trapezoid rule.
    """

    order = 2
    memory = 4
    public_form: bool = False

    def begin(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], denoised: Denoised, slopes: Sequence[Point]
    ) -> Tensor:
        at_t, at_s = step.at_t, step.at_s
        if len(slopes) > 1:
            return self.multistep(denoised, slopes, at_s)
        euler = euler_step(denoised, at_s.alpha, at_s.sigma)
        second = denoise(euler, at_s)
        if not self.public_form or not slopes:
            return trapezoid(euler, denoised, second, at_s.alpha - at_t.alpha, at_s.sigma - at_t.sigma)
        change = at_s.sigma - at_s.alpha * slopes[0].coordinate
        return euler.add_(second.eps - denoised.eps, alpha=change / 2)

    def weights(self, slopes: Sequence[Point], ratio: float) -> list[float]:
        return _WEIGHTS[len(slopes)]
