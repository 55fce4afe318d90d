"""DPM-Solver++: multistep and single-step solvers of the ODE in x0, and a multistep one of the SDE."""

import math
from typing import Any, Literal

from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, Noise, Step
from diffsweep.samplers.base import Clip, Spacing, State
from diffsweep.samplers.exponential import (
    InX0,
    Level,
    MultistepSampler,
    Point,
    WarmStart,
    combine,
    exact_moments,
    nodes_of,
    one_of,
    phi,
    quadrature,
    usable,
)

Variant = Literal["multistep", "singlestep", "sde"]


class DPMSolverPP(InX0, MultistepSampler):
    r"""DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095), with :math:`\lambda = \log(\alpha / \sigma)`, :math:`h = \lambda_s - \lambda_t`.

    ``multistep``, 2M: :math:`x_s = \frac{\sigma_s}{\sigma_t} x_t - \alpha_s (e^{-h} - 1) (m_0 + \frac12 D_1)`, where :math:`m_0` is x_0 at t and
    :math:`D_1 = (m_0 - m_1) / r`, :math:`m_1` the x_0 of the step before, which was r h long ("midpoint" in diffusers). 3M:
    :math:`x_s = \frac{\sigma_s}{\sigma_t} x_t + \alpha_s (E_1 m_0 + E_2 D_1 + 2 E_3 D_2)`,
    :math:`E_1 = 1 - e^{-h}, E_2 = 1 - E_1 / h, E_3 = \frac12 - E_2 / h`,
    with :math:`D_1 = h m'` and :math:`D_2 = h^2 m'' / 2` of the parabola through three x_0. One network call a step.

    ``singlestep``, 2S and 3S: as many network calls a step as the order; 2S through the middle, 3S through a third and two thirds.

    ``sde``, SDE-2M: :math:`x_s = \frac{\sigma_s}{\sigma_t} e^{-h} x_t + \alpha_s (1 - e^{-2h}) (m_0 + \frac12 D_1) + \sigma_s \sqrt{1 - e^{-2h}} z`; its first
    step, and one from or to infinite log-SNR, leaves :math:`D_1` out, the rest being finite there.

    Differences kept on purpose. The published third-order multistep update (the official code, diffusers, k-diffusion) lacks the
    factor 2 before :math:`D_2` and converges at order 2: ``public_form`` gives it. The public codes start with Euler's step and, below
    15 steps, end at lower orders; ours starts with single steps (``warm_start``) and ends with DDIM's step to clean data.

    Args:
        order: 2 or 3; 2 for ``sde``.
        variant: ``multistep``, ``singlestep`` or ``sde``.
        public_form: the third-order multistep update as it is published, of order 2.
        warm_start: of ``multistep``: its first order - 1 steps are ``singlestep``, 2S or 3S, so a 2M walk makes 1 network call
            more than it has steps and a 3M walk 4 more; or ``euler``: 1M, then 2M, as the public codes, with none more.
        steps, spacing, start, stop, clip, temperature: see :class:`~diffsweep.samplers.base.Sampler`.
    """

    def __init__(
        self,
        order: int = 2,
        variant: Variant = "multistep",
        public_form: bool = False,
        warm_start: WarmStart = "singlestep",
        steps: int = 20,
        spacing: Spacing = "log_snr",
        start: float = 1.0,
        stop: float = 0.0,
        clip: Clip = "static",
        temperature: float = 1.0,
    ) -> None:
        self.variant = one_of("variant", variant, ("multistep", "singlestep", "sde"))
        one_of("order", order, (2, 3))
        if variant == "sde" and order != 2:
            raise ValueError(f"sampler.order is 2 where sampler.variant=sde, not {order}")
        if public_form and (variant, order) != ("multistep", 3):
            raise ValueError(
                "sampler.public_form=true is a form of sampler.variant=multistep with sampler.order=3, "
                f"not of {variant} with {order}"
            )
        self.public_form = public_form
        self.order = None if variant == "sde" else 2 if public_form else order
        super().__init__(order, warm_start, steps, spacing, start, stop, clip, temperature)

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
        if self.variant != "sde":
            return super().advance(denoiser, x, t, pair, state, noise, cond)
        denoised = self.denoise(denoiser, x, t, pair, cond)
        here, there = Level(pair.alpha_t, pair.sigma_t), Level(pair.alpha_s, pair.sigma_s)
        points: tuple[Point, ...] = (Point(here.half_log_snr, denoised.x0),)
        weights = [1.0]
        if state is not None and math.isfinite(there.half_log_snr) and here.half_log_snr != there.half_log_snr:
            points = usable((points[0], *(state.history or ()))[: self.solver_order], there.half_log_snr)
            weights = quadrature(nodes_of(points, here, there), [1.0, 0.5][: len(points)])
        decay = pair.sigma_s / pair.alpha_s * pair.alpha_t / pair.sigma_t  # e^-h, finite at either end
        fresh = 1 - decay**2
        terms = [(pair.alpha_s * fresh * w, point.output) for w, point in zip(weights, points, strict=True)]
        if pair.sigma_s > 0:
            terms.append((pair.sigma_s * math.sqrt(max(0.0, fresh)), noise.like(x)))
        history = points[:1] if math.isfinite(here.half_log_snr) else ()
        return combine(x, pair.sigma_s / pair.sigma_t * decay, terms), State(denoised, history)

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
        if self.variant == "singlestep":
            first = Point(here.half_log_snr, denoised.x0)
            return self.single_step(self.solver_order, denoiser, x, here, there, first, cond), None
        return super().solve(denoiser, x, here, there, denoised, history, cond)

    def moments(self, order: int, z: float) -> list[float]:
        if order == 2:
            return [phi(1, z), phi(1, z) / 2]
        moments = exact_moments(order, z)
        if self.public_form and order == 3:
            moments[2] /= 2
        return moments
