"""PLMS: the pseudo linear multistep solver of PNDM."""

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
    r"""PLMS (Liu et al. 2022, arXiv:2202.09778): DDIM's step with the eps of Adams and Bashforth's method for *equal* steps,

    .. math:: x_s = \frac{\alpha_s}{\alpha_t} (x_t - \sigma_t \epsilon') + \sigma_s \epsilon', \quad
        \epsilon' = \tfrac{1}{24} (55 \epsilon_0 - 59 \epsilon_1 + 37 \epsilon_2 - 9 \epsilon_3).

    Equal steps in t are not equal in :math:`\sigma / \alpha`, where the ODE's slope is eps: so it is of order 2, not 4, whatever the spacing.
    :class:`~diffsweep.samplers.LMS` is the solver with the weights of the steps as they lie. One network call a step, and one
    more for the first step; the second and third use two and three eps.

    Differences from the public codes (PNDM, latent-diffusion, diffusers), kept on purpose. Their first step takes the mean of the eps at both ends
    for :math:`\epsilon'`; from next to no signal (the cosine schedule) :math:`\alpha_s / \alpha_t` is large and multiplies
    what the network errs by. Ours takes the trapezoid rule of :class:`~diffsweep.samplers.Heun`, of the same cost and order; ``public_form`` gives theirs.
    PNDM's own code starts with three pseudo Runge-Kutta steps; this is the start of latent-diffusion, and of diffusers with ``skip_prk_steps``.

    Args:
        public_form: the first step as it is published.
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
        moved = euler_step(denoised, at_s.alpha, at_s.sigma)
        at_end = denoise(moved, at_s)
        if not self.public_form or not slopes:
            return trapezoid(moved, denoised, at_end, at_s.alpha - at_t.alpha, at_s.sigma - at_t.sigma)
        change = at_s.sigma - at_s.alpha * slopes[0].place
        return moved.add_(at_end.eps - denoised.eps, alpha=change / 2)

    def weights(self, slopes: Sequence[Point], ratio: float) -> list[float]:
        return _WEIGHTS[len(slopes)]
