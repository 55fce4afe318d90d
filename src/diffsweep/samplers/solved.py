"""The exact consistency function of any denoiser: its sampling ODE, solved to the end from each noisy sample."""

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, expand_to, step_between
from diffsweep.samplers.ode import ODE


class Solved(Denoiser):
    """A denoiser whose estimate of x_0 is where the probability-flow ODE of another one ends, to a tolerance.

    Consistency models learn this function. It takes many calls of the other denoiser, so it is for tests and proofs.

    Args:
        denoiser: the denoiser that defines the ODE, such as an exact one.
        tolerance: of the solver, see :class:`ODE`.
    """

    def __init__(self, denoiser: Denoiser, tolerance: float = 1e-6) -> None:
        super().__init__(denoiser.schedule, denoiser.prediction, denoiser.noise)
        self.denoiser, self.solver = denoiser, ODE(tolerance=tolerance, clip="none")

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        times = t.double().expand(len(x_t))
        step = step_between(self.schedule, torch.zeros_like(times), times, torch.ones_like(times, dtype=torch.bool))
        x0 = self.solver.step_each(self.denoiser, x_t, step, cond)
        alpha, sigma = (expand_to(value, x_t) for value in step.at_t[1:])
        return Denoised(x0, (x_t - alpha * x0) / sigma, self.prediction.variance_mix or 0.0)
