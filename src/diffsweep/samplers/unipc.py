"""UniPC: a multistep predictor whose every step the next network call corrects."""

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
    """A step that the next one corrects: from where to where, with which outputs, of which weights."""

    at_t: Level[float]
    at_s: Level[float]
    points: tuple[Point, ...]
    weights: list[float]


class History(NamedTuple):
    """Outputs, the newest first, and the last step where a multistep update took it."""

    points: tuple[Point, ...]
    predicted: Predicted | None


@dataclass(kw_only=True, eq=False)
class UniPC(InX0, MultistepSampler):
    r"""UniPC in x_0 (Zhao et al. 2023, arXiv:2302.04867, alg. 5 and 6), with :math:`\lambda = \log(\alpha / \sigma)`, :math:`h = \lambda_s - \lambda_t`.

    The predictor of order p: :math:`x_s = \frac{\sigma_s}{\sigma_t} x_t - \alpha_s (e^{-h} - 1) m_0 - \alpha_s B(h) \sum_k \rho_k (m_k - m_0) / r_k`, where
    :math:`m_k` is the x_0 at :math:`\lambda_t + r_k h`, p - 1 of them past. The x_0 at the predicted x_s, which the next step asks for
    in any case, joins them at :math:`r = 1`, and the corrector takes the step again with these p + 1: so p network calls' worth of
    past, order p + 1, one call a step. :math:`\rho` is exact for polynomials, except where a single difference is left, in UniP-2
    and UniC-1: there it is 1/2, and B is -h (``bh1``) or :math:`e^{-h} - 1` (``bh2``). Elsewhere B cancels, so at order 3 the
    variants differ in the warm start ``euler`` only.

    ``callback`` and the walk's end see the predicted x. The correction is added to what x has become since.

    Differences kept on purpose: the public codes start with Euler's step and lower the order of the last steps; ours starts with
    single steps (``warm_start``), which are not corrected, and keeps its order until DDIM's step to clean data.

    Args:
        order: p, 1, 2 or 3; it converges at p + 1, which is ``.order``.
        variant: ``bh1`` or ``bh2``.
        warm_start: the first p - 1 steps are ``singlestep``, DPM-Solver++ 2S or 3S, so a walk of order 2 makes 1 network call
            more than it has steps and one of order 3 makes 4 more; or ``euler``: at the orders 1, ..., p - 1, with none more.
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
        """Return x with the predictor's quadrature replaced by the corrector's, over one output more."""
        joined = (*predicted.points, new)
        after = self.weights(predicted.at_t, predicted.at_s, joined, self.moments)
        return combine(x, 1.0, joined, [w - v for w, v in zip(after, [*predicted.weights, 0.0], strict=True)])

    def moments(self, count: int, z: float) -> list[float]:
        if count == 2:
            return [phi(1, z), 0.5 if self.variant == "bh1" else phi(1, z) / 2]
        return exact_moments(count, z)
