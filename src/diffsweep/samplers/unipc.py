r"""UniPC: a multistep predictor in x0, corrected by the next network call.

.. math:: x_s = \frac{\sigma_s}{\sigma_t} x_t - \alpha_s (e^{-h} - 1) m_0
    - \alpha_s B(h) \sum_k \rho_k \frac{m_k - m_0}{r_k},
    \quad h = \lambda_s - \lambda_t, \quad \lambda = \log(\alpha / \sigma)

is a step from t to s < t, with :math:`m_k` the denoiser's x_0 at :math:`\lambda_t + r_k h`. The predictor uses those of
steps before (:math:`r_k < 0`); the corrector repeats the step with the x_0 at the predicted :math:`x_s` (:math:`r = 1`)
as well, which the next step evaluates anyway.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from diffsweep.diffusion import Denoised, Step
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.samplers.exponential import (
    InX0,
    MultistepSampler,
    Point,
    combine,
    exact_moments,
    phi,
    usable,
)
from diffsweep.samplers.options import one_of
from diffsweep.schedules import Level


class Predicted(NamedTuple):
    """A predictor step of UniPC as the next step remembers it, in order to correct its result.

    Attributes:
        at_t, at_s: the noise levels at its beginning and its end.
        points: the x_0 that it used, at t and at the starts of the steps before, each with its log(alpha / sigma).
        weights: the factor of each of these x_0 in the step.
    """

    at_t: Level[float]
    at_s: Level[float]
    points: tuple[Point, ...]
    weights: list[float]


class History(NamedTuple):
    """The memory that a step of UniPC leaves for the next one.

    Attributes:
        points: the x_0 of this step and of earlier ones, each with its log(alpha / sigma), newest first.
        predicted: this step, which the next one corrects; None if it was a single step of the warm start.
    """

    points: tuple[Point, ...]
    predicted: Predicted | None


@dataclass(kw_only=True, eq=False)
class UniPC(InX0, MultistepSampler):
    r"""Sample with UniPC in x_0, a predictor-corrector of order p (Zhao et al. 2023, arXiv:2302.04867, alg. 5 and 6).

    With :math:`\lambda = \log(\alpha / \sigma)` and :math:`h = \lambda_s - \lambda_t`, the predictor is

    .. math:: x_s = \frac{\sigma_s}{\sigma_t} x_t - \alpha_s (e^{-h} - 1) m_0
        - \alpha_s B(h) \sum_k \rho_k (m_k - m_0) / r_k,

    a step from t to s < t, where :math:`m_0` is the denoiser's x_0 at t and :math:`m_k` its x_0 at
    :math:`\lambda_t + r_k h`, of p - 1 steps before. The next step evaluates the x_0 at the predicted x_s in any case.
    The corrector repeats the step with this x_0 as a further :math:`m_k` of :math:`r_k = 1`, so the order is p + 1 with
    one network call a step.

    The coefficients :math:`\rho` are exact for polynomials, except where the sum has a single term (UniP-2 and UniC-1):
    then :math:`\rho = 1/2`, and B is -h (``bh1``) or :math:`e^{-h} - 1` (``bh2``). In all other cases B cancels, so at
    order 3 the variants differ in the warm start ``euler`` only.

    The callback gets the predicted x, and the samples are the last predicted x. The correction is added to x at the
    next step, so it also applies where the caller has changed x in between.

    Intended differences: the public codes start with Euler's step and lower the order of the last steps. This class
    starts with single steps (``warm_start``), which are not corrected, and keeps its order until the step to clean
    data, which is DDIM's.

    Args:
        order: p, 1, 2 or 3; the order of convergence is p + 1, which is ``.order`` of the object.
        variant: ``bh1`` or ``bh2``, which sets B(h).
        warm_start: how the first p - 1 steps are taken. ``singlestep``: by DPM-Solver++ 2S or 3S, which adds 1 network
            call in all for order 2 and 4 for order 3; ``euler``: at the orders 1, ..., p - 1, with no further network
            call.

    Raises:
        ValueError: an option has another value.
    """

    variant: Literal["bh1", "bh2"] = "bh2"

    def __post_init__(self) -> None:
        one_of("variant", self.variant, ("bh1", "bh2"))
        super().__post_init__()

    def convergence(self) -> int:
        return self.solver_order + 1

    def solve(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], denoised: Denoised, history: Any
    ) -> tuple[Tensor, Any]:
        at_t, at_s, first = step.at_t, step.at_s, self.point(step.at_t, denoised)
        past = history if history is not None else History((), None)
        if past.predicted is not None and past.predicted.at_s.half_log_snr == at_t.half_log_snr:
            x = self._corrected(x, past.predicted, first)
        points = usable((first, *past.points)[: self.solver_order], at_s.half_log_snr)
        kept = points[: self.solver_order - 1]
        if len(points) < self.solver_order and self.warm_start == "singlestep":
            return self.single_step(self.solver_order, denoise, x, step, denoised), History(kept, None)
        weights = self.weights(at_t, at_s, points, self.moments)
        x = combine(x, self.linear_part(at_t, at_s)[0], points, weights)
        return x, History(kept, Predicted(at_t, at_s, points, weights))

    def _corrected(self, x: Tensor, predicted: Predicted, new: Point) -> Tensor:
        """Return x with the predictor's quadrature replaced by the corrector's, which has one more output."""
        joined = (*predicted.points, new)
        corrected = self.weights(predicted.at_t, predicted.at_s, joined, self.moments)
        return combine(x, 1.0, joined, [w - v for w, v in zip(corrected, [*predicted.weights, 0.0], strict=True)])

    def moments(self, count: int, z: float) -> list[float]:
        if count == 2:
            return [phi(1, z), 0.5 if self.variant == "bh1" else phi(1, z) / 2]
        return exact_moments(count, z)
