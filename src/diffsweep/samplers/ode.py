"""The probability-flow ODE by an adaptive solver, and what else takes a step in the angle."""

import math

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, Noise, Step, integrate, log_snr_of, velocity
from diffsweep.samplers.base import Clip, Sampler, Spacing, State, euler_step
from diffsweep.schedules import Located


class AngleSampler(Sampler):
    """A sampler that integrates in the angle, somewhere."""

    def rate(self, denoiser: Denoiser, u: Tensor, angle: float, cond: Condition | None) -> Tensor:
        r""":math:`du / d\phi` at an angle above 0."""
        at = denoiser.schedule.at_log_snr(log_snr_of(angle))
        return velocity(self.denoise_at(denoiser, u * math.hypot(at.alpha, at.sigma), at, cond), angle)


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
        steps, spacing, start, stop, clip, temperature: see :class:`~diffsweep.samplers.base.Sampler`.

    Attributes:
        order: 5, that of dopri5's steps; the error of a walk follows the tolerance, not ``steps``.
    """

    order = 5
    tolerance: float

    def __init__(
        self,
        tolerance: float = 1e-5,
        steps: int = 1,
        spacing: Spacing = "uniform",
        start: float = 1.0,
        stop: float = 0.0,
        clip: Clip = "static",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(steps, spacing, start, stop, clip, temperature)
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
            last = self.denoise_at(denoiser, x, Located(t_min, alpha, sigma), cond)
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
        begin, end = math.atan2(pair.sigma_t, pair.alpha_t), math.atan2(sigma, alpha)
        first: list[Tensor] = [velocity(denoised, begin)]

        def rate(phi: Tensor, u: Tensor) -> Tensor:
            if first:  # the solver begins by asking for the slope at the start
                return first.pop()
            return self.rate(denoiser, u, float(phi), cond)

        u = integrate(rate, begin, end, x / math.hypot(pair.alpha_t, pair.sigma_t), x.device, self.tolerance)
        return u * math.hypot(alpha, sigma)
