r"""The probability-flow ODE, solved by an adaptive solver.

.. math:: \frac{du}{d\phi} = \cos\phi \; \epsilon - \sin\phi \; x_0

is the ODE in the angle :math:`\phi = \mathrm{atan2}(\sigma, \alpha)` of :math:`u = x / \sqrt{\alpha^2 + \sigma^2}`. It
is finite at both ends of every schedule, and the same for all schedules.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffsweep.diffusion import Denoised, Noise, Step, integrate, velocity
from diffsweep.samplers.base import Sampler, State, euler_step
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.schedules import Level


@dataclass(kw_only=True, eq=False)
class ODE(Sampler):
    r"""Sample by solving the probability-flow ODE with an adaptive solver (Song et al. 2021, arXiv:2011.13456).

    The ODE is that of the paper's section 4.3, :math:`dx = x_0 \, d\alpha + \epsilon \, d\sigma` with the denoiser's
    estimates. The solver is dopri5 of torchdiffeq, which chooses its own steps so that
    their errors stay below ``tolerance``. The ``steps`` of the sampler are intervals, each solved separately, so
    ``steps`` is the number of calls of the callback, not of network calls. An interval takes at least 7 network calls,
    and its error follows the tolerance. An interval to clean data is integrated down to the schedule's ``t_min`` and
    ends with Euler's step from ``t_min``.

    Intended differences from score_sde's code: the code integrates in t with scipy's RK45 on the CPU, down to t = 1e-3
    or 1e-5. Here the variable is the angle :math:`\mathrm{atan2}(\sigma, \alpha)`, in which the ODE is finite at t = 1
    too, and no step of the solver goes beyond the end of its interval. In both, the samples of a batch share the
    solver's steps, so a sample depends on its batch within the tolerance. With ``clip`` the right-hand side has kinks,
    which cost further steps.

    Args:
        tolerance: relative and absolute error of one step of the solver, in :math:`u = x / \sqrt{\alpha^2 + \sigma^2}`;
            above 0 and below 1.

    Attributes:
        order: 5, the order of dopri5's steps; the error of the samples follows the tolerance, not ``steps``.

    Raises:
        ValueError: the tolerance is out of its range.
    """

    provides = frozenset()  # dopri5 chooses its steps
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
        """Return x at s, where sigma is above 0; ``denoised`` is the denoiser's estimate at t."""
        first: list[Tensor] = [velocity(denoised, at_t.angle)]

        def rate(phi: Tensor, u: Tensor) -> Tensor:
            # the solver's first evaluation is at the start, where the estimate is known
            return first.pop() if first else denoise.velocity(u, float(phi))

        return integrate(rate, at_t.angle, at_s.angle, x / at_t.norm, x.device, self.tolerance) * at_s.norm
