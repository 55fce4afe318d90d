r"""DDIM, and the Euler samplers that equal it.

.. math:: x_s = \alpha_s x_0 + \sqrt{\sigma_s^2 - v} \, \epsilon + \sqrt v \, z, \quad v = \eta^2 v_{post}

is the step from t to s < t, with the denoiser's :math:`x_0, \epsilon` at t; :math:`v_{post}` is the variance of
:math:`q(x_s | x_t, x_0)` and z standard normal. With eta = 0 no noise is drawn, and the step is Euler's on the
probability-flow ODE :math:`dx = x_0 \, d\alpha + \epsilon \, d\sigma`. With eta = 1 it is DDPM's ancestral step.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoiser, Noise, PlainDenoiser, Step, as_denoiser, in_numbers, steps_of
from diffsweep.samplers.base import Callback, Sampler, State, euler_step, euler_step_each
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.samplers.watch import Watch


@dataclass(kw_only=True, eq=False)
class DDIM(Sampler):
    r"""Sample with DDIM, deterministic at eta = 0 and ancestral at eta = 1 (Song et al. 2021, arXiv:2010.02502).

    A step is :math:`x_s = \alpha_s x_0 + \sqrt{\sigma_s^2 - v} \, \epsilon + \sqrt v z`, :math:`v = \eta^2 v_{post}`
    (eq. 12, 16), from t to s < t, with the denoiser's :math:`x_0, \epsilon` at t and standard normal z;
    :math:`v_{post}` is the variance of :math:`q(x_s | x_t, x_0)`, 0 for the step to clean data.

    With eta = 0 it is Euler's method on the probability-flow ODE ``dx = x0 d alpha + eps d sigma``, of order 1, and
    :meth:`invert` follows it backwards, from data to their noise. With eta = 1 it is the ancestral step with the
    posterior's variance.

    Args:
        eta: the standard deviation of the noise that a step draws, relative to that of :math:`q(x_s | x_t, x_0)`; in
            [0, 1].

    Raises:
        ValueError: eta is not in [0, 1].
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"sampler.eta lies between 0 and 1, not {self.eta}")
        self.order = 1 if self.eta == 0 else None
        super().__post_init__()

    def advance(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], state: State | None, noise: Noise
    ) -> tuple[Tensor, State]:
        denoised, at_s, variance = denoise(x, step.at_t), step.at_s, self.eta**2 * step.var_post
        x = euler_step(denoised, at_s.alpha, math.sqrt(max(0.0, at_s.sigma**2 - variance)))
        if variance > 0:
            x.add_(noise.like(x), alpha=math.sqrt(variance))
        return x, State(denoised)

    def advance_each(self, denoiser: Denoiser, x: Tensor, step: Step[Tensor], cond: Condition | None) -> Tensor:
        denoised = ConditionedDenoiser(denoiser, cond, self.clip).each(x, step.at_t)
        return euler_step_each(denoised, step.at_s)

    @property
    def invertible(self) -> bool:
        return self.eta == 0

    @torch.no_grad()
    def invert(
        self, denoiser: PlainDenoiser, x: Tensor, cond: Condition | None = None, callback: Callback | None = None
    ) -> Tensor:
        r"""Return the x at t = start, the noise of the data, from which sampling ends near ``x``.

        This is DDIM inversion (arXiv:2010.02502, section 5.4; arXiv:2105.05233, app. F).
        The steps go through the times of sampling upwards, from s to t > s:
        :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon` with the denoiser's x_0 and eps at s, the lower end of the step.

        Sampling from the result gives x back to first order in the step size, since both directions are Euler's method
        on the same ODE. The x0 estimates are not clipped, because eps could not be recomputed where sigma is 0. For the
        step from clean data the denoiser is evaluated at ``schedule.t_min``, the lowest time at which it is defined.

        Raises:
            ValueError: eta is above 0, so the steps draw noise that cannot be recovered.
            NotFinite: x contains a NaN or an infinity after a step.
        """
        if not self.invertible:
            raise ValueError(f"only deterministic DDIM can be inverted; use sampler.eta=0, not {self.eta}")
        denoise = ConditionedDenoiser(as_denoiser(denoiser), cond)
        steps = in_numbers(steps_of(denoise.schedule, self.times(denoise.schedule)))
        upwards = [(step.at_s, step.at_t) for step in reversed(steps)]
        lowest, watch = denoise.schedule.at(torch.tensor(denoise.schedule.t_min, dtype=torch.float64)), Watch(upwards)
        for i, (low, high) in enumerate(upwards):
            begin = lowest if low.sigma == 0 else low
            denoised = denoise(x, begin)
            x = euler_step(denoised, high.alpha, high.sigma)
            watch(x)
            if callback is not None:
                callback(i, begin.t, denoised, x)
        watch.finish()
        return x


@dataclass(kw_only=True, eq=False)
class Euler(DDIM):
    r"""Sample with Euler's method on the probability-flow ODE (EDM, arXiv:2206.00364, alg. 1 without its correction).

    It is k-diffusion's ``sample_euler``. A step is

    .. math:: x_s = x_t + x_0 (\alpha_s - \alpha_t) + \epsilon (\sigma_s - \sigma_t) = \alpha_s x_0 + \sigma_s \epsilon.

    with the denoiser's :math:`x_0, \epsilon` at t. For any alpha it is also Euler's method in
    :math:`\sigma / \alpha`, and so equal to
    :class:`~diffsweep.samplers.DDIM` with eta = 0: these are two published names of one solver. As in k-diffusion and
    diffusers the last step goes to sigma = 0. Their option to add noise (churn) is an option of
    :class:`~diffsweep.samplers.Heun` alone.

    Attributes:
        eta: 0, and no option: the sampler is deterministic.
    """

    eta: float = field(default=0.0, init=False)


@dataclass(kw_only=True, eq=False)
class EulerAncestral(DDIM):
    r"""Sample with Euler steps below the noise level of s, then add noise up to s.

    This is k-diffusion's ``sample_euler_ancestral``. With :math:`r = \sigma / \alpha`, the denoiser's
    :math:`x_0, \epsilon` at t and standard normal z, a step from t to s < t is

    .. math:: x_s = \alpha_s (x_0 + r_{down} \epsilon + r_{up} z), \quad
        r_{up} = \eta \, \frac{r_s}{r_t} \sqrt{r_t^2 - r_s^2}, \quad r_{down} = \sqrt{r_s^2 - r_{up}^2}.

    :math:`\alpha_s r_{up}` is eta times the standard deviation of :math:`q(x_s | x_t, x_0)`, so this equals
    :class:`~diffsweep.samplers.DDIM` of the same eta (arXiv:2010.02502, eq. 16): eta = 1 is DDPM's step with the small
    variance, eta = 0 is Euler's step. One difference is intended: k-diffusion accepts any eta and limits :math:`r_{up}`
    to :math:`r_s`; here eta is at most 1. Its ``s_noise`` is the option ``temperature`` here.

    Args:
        eta: the standard deviation of the noise that a step draws, relative to that of :math:`q(x_s | x_t, x_0)`; in
            [0, 1], 0 is deterministic.

    Raises:
        ValueError: eta is not in [0, 1].
    """

    eta: float = 1.0
