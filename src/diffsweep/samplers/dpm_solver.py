"""DPM-Solver: single-step solvers of the ODE in eps."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diffsweep.diffusion import Denoised, Step
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.samplers.exponential import ExponentialSampler, InEps
from diffsweep.samplers.options import one_of


@dataclass(kw_only=True, eq=False)
class DPMSolver(InEps, ExponentialSampler):
    r"""DPM-Solver-1, 2 and 3 (Lu et al. 2022, arXiv:2206.00927, alg. 1 and 2), with :math:`\lambda = \log(\alpha / \sigma)`, :math:`h = \lambda_s - \lambda_t`.

    Order 1 is DDIM. Order 2 looks at the middle of the step in lambda:
    :math:`x_s = \frac{\alpha_s}{\alpha_t} x_t - \sigma_s (e^h - 1) \epsilon_{1/2}`. Order 3 looks at a third and at two thirds of it:
    :math:`x_s = \frac{\alpha_s}{\alpha_t} x_t - \sigma_s (e^h - 1) \epsilon_0 - \frac32 \sigma_s (\frac{e^h - 1}{h} - 1) (\epsilon_{2/3} - \epsilon_0)`,
    :math:`x_{2/3}` by the same formula from :math:`\epsilon_0, \epsilon_{1/3}`.

    Differences kept on purpose: every step is of one order and makes that many network calls, so a walk makes order times as
    many as it has steps, less those that its steps from and to infinite log-SNR, DDIM's, need not; the official code counts
    network calls and mixes orders to make them up.

    Args:
        order: 1, 2 or 3.
    """

    order: int = 2

    def __post_init__(self) -> None:
        one_of("order", self.order, (1, 2, 3))
        super().__post_init__()

    def solve(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], denoised: Denoised, history: Any
    ) -> tuple[Tensor, Any]:
        return self.single_step(self.order, denoise, x, step, denoised), None
