"""DPM-Solver: single-step solvers of the ODE in eps."""

from typing import Any

from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser
from diffsweep.samplers.base import Clip, Spacing
from diffsweep.samplers.exponential import InEps, Level, Point, one_of


class DPMSolver(InEps):
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
        steps, spacing, start, stop, clip, temperature: see :class:`~diffsweep.samplers.base.Sampler`.
    """

    def __init__(
        self,
        order: int = 2,
        steps: int = 20,
        spacing: Spacing = "log_snr",
        start: float = 1.0,
        stop: float = 0.0,
        clip: Clip = "static",
        temperature: float = 1.0,
    ) -> None:
        self.order: int = one_of("order", order, (1, 2, 3))
        super().__init__(steps, spacing, start, stop, clip, temperature)

    def solve(
        self,
        denoiser: Denoiser,
        x: Tensor,
        here: Level,
        there: Level,
        denoised: Denoised,
        history: Any,
        cond: Condition | None,
    ) -> tuple[Tensor, Any]:
        first = Point(here.half_log_snr, denoised.eps)
        return self.single_step(self.order, denoiser, x, here, there, first, cond), None
