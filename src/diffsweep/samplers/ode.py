"""The probability-flow ODE by an adaptive solver."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffsweep.diffusion import Denoised, Noise, Step, integrate, velocity
from diffsweep.samplers.base import Sampler, State, euler_step
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.schedules import Level


@dataclass(kw_only=True, eq=False)
class ODE(Sampler):
    r"""The probability-flow ODE (Song et al. 2021, arXiv:2011.13456, section 4.3) by dopri5 of torchdiffeq, whose steps follow a tolerance.

    Each of the ``steps`` intervals is one adaptive solution, so ``steps`` is how often the callback is called, not how many network
    calls are made. An interval to clean data is integrated down to the schedule's ``t_min`` and ends with Euler's step from
    there. An interval costs at least 7 network calls and its error is that of the tolerance.

    Differences from score_sde's code, kept on purpose: it integrates in t with scipy's RK45 on the CPU, down to 1e-3 or 1e-5; here the variable is
    the angle, in which the ODE is finite at t = 1 too, and no step goes beyond the end of its interval. As there, the samples of a
    batch share their steps: another batch changes them within the tolerance. With ``clip`` the right-hand side has kinks, which cost steps.

    Args:
        tolerance: relative and absolute, of one step of the solver in u.

    Attributes:
        order: 5, that of dopri5's steps; the error of a walk follows the tolerance, not ``steps``.
    """

    order = 5
    steps: int = 1
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.tolerance < 1:
            raise ValueError(f"sampler.tolerance lies between 0 and 1, not {self.tolerance}")

    def advance(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], state: State | None, noise: Noise
    ) -> tuple[Tensor, State]:
        denoised, at_t, at_s = denoise(x, step.at_t), step.at_t, step.at_s
        if at_s.sigma > 0:
            return self._solved(denoise, x, denoised, at_t, at_s), State(denoised)
        last, lowest = denoised, denoise.schedule.at(torch.tensor(denoise.schedule.t_min, dtype=torch.float64))
        if at_t.t > lowest.t:
            x = self._solved(denoise, x, denoised, at_t, lowest)
            last = denoise(x, lowest)
        return euler_step(last, at_s.alpha, at_s.sigma), State(denoised)

    def _solved(
        self, denoise: ConditionedDenoiser, x: Tensor, denoised: Denoised, at_t: Level[float], at_s: Level[float]
    ) -> Tensor:
        """Return x there, where sigma is above 0; ``denoised`` is what is known here."""
        first: list[Tensor] = [velocity(denoised, at_t.angle)]

        def rate(phi: Tensor, u: Tensor) -> Tensor:
            # the solver begins by asking for the slope at the start
            return first.pop() if first else denoise.velocity(u, float(phi))

        return integrate(rate, at_t.angle, at_s.angle, x / at_t.norm, x.device, self.tolerance) * at_s.norm
