r"""DPM-Solver: single-step solvers of the probability-flow ODE in eps.

.. math:: x_s = \frac{\alpha_s}{\alpha_t} x_t
    - \alpha_s \int_{\lambda_t}^{\lambda_s} e^{-\lambda} \epsilon(\lambda) \, d\lambda,
    \quad \lambda = \log(\alpha / \sigma)

holds exactly on the ODE's solution. A solver of order k approximates eps from k network calls within the step, at
lambdas between the two ends.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diffsweep.diffusion import Denoised, Step
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.samplers.exponential import ExponentialSampler, InEps
from diffsweep.samplers.options import one_of


@dataclass(kw_only=True, eq=False)
class DPMSolver(InEps, ExponentialSampler):
    r"""Sample with DPM-Solver-1, 2 or 3 (Lu et al. 2022, arXiv:2206.00927, alg. 1 and 2).

    A step goes from t to s < t. Let :math:`\lambda = \log(\alpha / \sigma)`, :math:`h = \lambda_s - \lambda_t`, and
    :math:`\epsilon_r` the denoiser's eps at the noise level :math:`\lambda_t + r h`.

    Order 1 is DDIM. Order 2 evaluates the denoiser at the middle of the step in lambda:
    :math:`x_s = \frac{\alpha_s}{\alpha_t} x_t - \sigma_s (e^h - 1) \epsilon_{1/2}`. Order 3 evaluates it at one third
    and at two thirds:

    .. math:: x_s = \frac{\alpha_s}{\alpha_t} x_t - \sigma_s (e^h - 1) \epsilon_0
        - \tfrac32 \sigma_s \Big(\frac{e^h - 1}{h} - 1\Big) (\epsilon_{2/3} - \epsilon_0).

    :math:`x_{2/3}` is given by the same formula for the shorter step to :math:`\lambda_t + \frac23 h`, with
    :math:`\epsilon_{1/3}` in place of :math:`\epsilon_{2/3}` and the factor 2 in place of 3/2.

    Intended differences: every step is of the same order and takes that many network calls, except that steps from or
    to an infinite log-SNR are DDIM's, of one call. So ``sampler.steps`` counts steps, where the official code is given
    the number of network calls and mixes orders to use them up.

    Args:
        order: the order of convergence and the number of network calls of a step: 1, 2 or 3.

    Raises:
        ValueError: the order has another value.
    """

    order: int = 2

    def __post_init__(self) -> None:
        one_of("order", self.order, (1, 2, 3))
        super().__post_init__()

    def solve(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], denoised: Denoised, history: Any
    ) -> tuple[Tensor, Any]:
        return self.single_step(self.order, denoise, x, step, denoised), None
