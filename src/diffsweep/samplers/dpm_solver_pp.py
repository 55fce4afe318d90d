r"""DPM-Solver++: solvers in x0 of the probability-flow ODE (multistep, single-step) and of the reverse SDE.

.. math:: x_s = \frac{\sigma_s}{\sigma_t} x_t
    + \sigma_s \int_{\lambda_t}^{\lambda_s} e^{\lambda} x_0(\lambda) \, d\lambda, \quad \lambda = \log(\alpha / \sigma)

holds exactly on the ODE's solution. The solvers replace x_0 between the two ends by a polynomial through estimates of
x_0: those of earlier steps (multistep), or of levels within the step (single-step).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from diffsweep.diffusion import Denoised, Noise, Step
from diffsweep.samplers.base import State
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.samplers.exponential import (
    InX0,
    MultistepSampler,
    Point,
    combine,
    exact_moments,
    middle_moments,
    nodes_of,
    quadrature,
    usable,
)
from diffsweep.samplers.options import one_of


@dataclass(kw_only=True, eq=False)
class DPMSolverPP(InX0, MultistepSampler):
    r"""Sample with DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095), on the ODE or on the SDE.

    A step goes from t to s < t. Let :math:`\lambda = \log(\alpha / \sigma)`, :math:`h = \lambda_s - \lambda_t`,
    :math:`m_0` the denoiser's x_0 at t, :math:`m_1` its x_0 at the start of the step before, which was r h long in
    lambda, and :math:`D_1 = (m_0 - m_1) / r`. The option ``variant`` chooses the step:

    ``multistep`` of order 2 (2M, "midpoint" in diffusers):
    :math:`x_s = \frac{\sigma_s}{\sigma_t} x_t - \alpha_s (e^{-h} - 1) (m_0 + \frac12 D_1)`. Of order 3 (3M):
    :math:`x_s = \frac{\sigma_s}{\sigma_t} x_t + \alpha_s (E_1 m_0 + E_2 D_1 + 2 E_3 D_2)`,
    :math:`E_1 = 1 - e^{-h}, E_2 = 1 - E_1 / h, E_3 = \frac12 - E_2 / h`, with :math:`D_1 = h m'` and
    :math:`D_2 = h^2 m'' / 2` of the parabola m through the last three x_0. A step takes one network call.

    ``singlestep`` (2S, 3S): a step takes as many network calls as the order; 2S evaluates the denoiser at the middle of
    the step in lambda, 3S at one third and at two thirds.

    ``sde`` (SDE-2M): :math:`x_s = \frac{\sigma_s}{\sigma_t} e^{-h} x_t + \alpha_s (1 - e^{-2h}) (m_0 + \frac12 D_1) +
    \sigma_s \sqrt{1 - e^{-2h}} z` with standard normal z, of one network call. The first step, and a step from or to an
    infinite log-SNR, leaves :math:`D_1` out; the other terms are finite for these.

    Intended differences. The published third-order multistep update (the official code, diffusers, k-diffusion) lacks
    the factor 2 before :math:`D_2` and converges at order 2; ``public_form`` gives it. The public codes start with
    Euler's step and, below 15 steps, end at lower orders. This class starts with single steps (``warm_start``) and ends
    with DDIM's step to clean data.

    Args:
        order: 2 or 3; 2 for ``sde``.
        variant: ``multistep``, ``singlestep`` or ``sde``.
        public_form: use the third-order multistep update as published, which converges at order 2.
        warm_start: how ``multistep`` takes its first order - 1 steps. ``singlestep``: by 2S or 3S, which adds 1 network
            call in all for 2M and 4 for 3M; ``euler``: by 1M, then 2M, as the public codes do, with no further network
            call.

    Raises:
        ValueError: an option has another value, or ``public_form`` is set for another variant or order.
    """

    orders = (2, 3)
    variant: Literal["multistep", "singlestep", "sde"] = "multistep"
    public_form: bool = False

    def __post_init__(self) -> None:
        one_of("variant", self.variant, ("multistep", "singlestep", "sde"))
        super().__post_init__()
        if self.variant == "sde" and self.solver_order != 2:
            raise ValueError(f"sampler.order is 2 where sampler.variant=sde, not {self.solver_order}")
        if self.public_form and (self.variant, self.solver_order) != ("multistep", 3):
            raise ValueError(
                "sampler.public_form=true is a form of sampler.variant=multistep with sampler.order=3, "
                f"not of {self.variant} with {self.solver_order}"
            )

    def convergence(self) -> int | None:
        return None if self.variant == "sde" else 2 if self.public_form else self.solver_order

    def advance(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], state: State | None, noise: Noise
    ) -> tuple[Tensor, State]:
        if self.variant != "sde":
            return super().advance(denoise, x, step, state, noise)
        at_t, at_s, denoised = step.at_t, step.at_s, denoise(x, step.at_t)
        points: tuple[Point, ...] = (self.point(at_t, denoised),)
        weights = [1.0]
        if state is not None and math.isfinite(at_s.half_log_snr) and at_t.half_log_snr != at_s.half_log_snr:
            points = usable((*points, *(state.history or ()))[: self.solver_order], at_s.half_log_snr)
            weights = quadrature(nodes_of(points, at_t.half_log_snr, at_s.half_log_snr), [1.0, 0.5][: len(points)])
        decay = at_s.sigma / at_s.alpha * at_t.alpha / at_t.sigma  # e^-h, finite at both ends
        added = 1 - decay**2  # share of sigma_s^2 that the noise of this step makes up
        x = combine(x, at_s.sigma / at_t.sigma * decay, points, [at_s.alpha * added * w for w in weights])
        if at_s.sigma > 0:
            x.add_(noise.like(x), alpha=at_s.sigma * math.sqrt(max(0.0, added)))
        return x, State(denoised, points[:1] if math.isfinite(at_t.half_log_snr) else ())

    def solve(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], denoised: Denoised, history: Any
    ) -> tuple[Tensor, Any]:
        if self.variant == "singlestep":
            return self.single_step(self.solver_order, denoise, x, step, denoised), None
        return super().solve(denoise, x, step, denoised, history)

    def moments(self, count: int, z: float) -> list[float]:
        if count == 2:
            return middle_moments(count, z)
        moments = exact_moments(count, z)
        if self.public_form and count == 3:
            moments[2] /= 2
        return moments
