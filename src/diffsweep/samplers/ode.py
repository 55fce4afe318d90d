r"""The probability-flow ODE by an adaptive solver, and its form in the angle.

In :math:`\phi = \mathrm{atan2}(\sigma, \alpha)` and :math:`u = x / \sqrt{\alpha^2 + \sigma^2}` the ODE of every schedule is
:math:`du / d\phi = \cos\phi \, \epsilon - \sin\phi \, x_0`, finite at both ends.
"""

import math

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, Noise, Step
from diffsweep.samplers.base import Clip, Sampler, Spacing, State
from diffsweep.samplers.euler import euler_step


def velocity(denoised: Denoised, angle: float) -> Tensor:
    r""":math:`du / d\phi`."""
    return (denoised.eps * math.cos(angle)).sub_(denoised.x0, alpha=math.sin(angle))


class AngleSampler(Sampler):
    """A sampler that integrates in the angle, somewhere."""

    def rate(self, denoiser: Denoiser, u: Tensor, angle: float, cond: Condition | None) -> Tensor:
        r""":math:`du / d\phi` at an angle above 0."""
        log_snr = torch.tensor(-2 * math.log(math.tan(angle)), dtype=torch.float64)
        t = denoiser.schedule.time_of(log_snr)
        alpha, sigma = (value.item() for value in denoiser.schedule(t))
        return velocity(self.denoise_at(denoiser, u * math.hypot(alpha, sigma), t, cond), angle)


class ODE(AngleSampler):
    r"""The probability-flow ODE (Song et al. 2021, arXiv:2011.13456, section 4.3) by dopri5 of torchdiffeq, whose steps follow a tolerance.

    Each of the ``steps`` intervals is one adaptive solution, so ``steps`` is how often the callback is called, not how many network
    calls are made. An interval to clean data is integrated down to the schedule's ``t_min`` and ends with Euler's step from
    there. An interval costs at least 7 network calls and its error is that of the tolerance.

    Differences from score_sde's code, kept on purpose: it integrates in t with scipy's RK45 on the CPU, down to 1e-3 or 1e-5; here the variable is
    the angle, in which the ODE is finite at t = 1 too, and no step goes beyond the end of its interval. As there, the samples of a
    batch share their steps: another batch changes them within the tolerance. With ``clip`` the right-hand side has kinks, which cost steps.

    Args:
        tolerance: relative and absolute, of one step of the solver in u.
        steps, spacing, start, stop, clip: see :class:`~diffsweep.samplers.base.Sampler`.

    Attributes:
        order: 5, that of dopri5's steps; the error of a walk follows the tolerance, not ``steps``.
    """

    order = 5

    def __init__(
        self,
        tolerance: float = 1e-5,
        steps: int = 1,
        spacing: Spacing = "uniform",
        start: float = 1.0,
        stop: float = 0.0,
        clip: Clip = "static",
    ) -> None:
        super().__init__(steps, spacing, start, stop, clip)
        if not 0 < tolerance < 1:
            raise ValueError(f"sampler.tolerance lies between 0 and 1, not {tolerance}")
        self.tolerance = tolerance

    def advance(
        self,
        denoiser: Denoiser,
        x: Tensor,
        t: Tensor,
        pair: Step[float],
        state: State | None,
        noise: Noise,
        cond: Condition | None,
    ) -> tuple[Tensor, State]:
        denoised = self.denoise(denoiser, x, t, pair, cond)
        if pair.sigma_s > 0:
            return self._solved(denoiser, x, denoised, pair, pair.alpha_s, pair.sigma_s, cond), State(denoised)
        last, t_min = denoised, torch.tensor(denoiser.schedule.t_min, dtype=torch.float64)
        if t > t_min:
            alpha, sigma = (value.item() for value in denoiser.schedule(t_min))
            x = self._solved(denoiser, x, denoised, pair, alpha, sigma, cond)
            last = self.denoise_at(denoiser, x, t_min, cond)
        return euler_step(last, pair.alpha_s, pair.sigma_s), State(denoised)

    def _solved(
        self,
        denoiser: Denoiser,
        x: Tensor,
        denoised: Denoised,
        pair: Step[float],
        alpha: float,
        sigma: float,
        cond: Condition | None,
    ) -> Tensor:
        """x at (alpha, sigma), sigma above 0; ``denoised`` is what is known at the pair's t."""
        from torchdiffeq import odeint

        begin, end = math.atan2(pair.sigma_t, pair.alpha_t), math.atan2(sigma, alpha)
        first: list[Tensor] = [velocity(denoised, begin)]

        def rate(phi: Tensor, u: Tensor) -> Tensor:
            if first:  # the solver begins by asking for the slope at the start
                return first.pop()
            return self.rate(denoiser, u, float(phi), cond)

        angles = torch.tensor([begin, end], dtype=torch.float64, device=x.device)
        # The last step ends at the end, and the first begins with a trial inside the interval: angles beyond it may not exist.
        options = {"step_t": angles[-1:], "first_step": min(begin - end, 0.1)}
        u = x / math.hypot(pair.alpha_t, pair.sigma_t)
        path = odeint(rate, u, angles, rtol=self.tolerance, atol=self.tolerance, method="dopri5", options=options)
        return path[-1] * math.hypot(alpha, sigma)
