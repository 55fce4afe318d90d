"""UniPC: a multistep predictor whose every step the next network call corrects."""

from typing import Any, Literal, NamedTuple

from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser
from diffsweep.samplers.base import Clip, Spacing
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


class Predicted(NamedTuple):
    """A step that the next one corrects: from where to where, with which outputs, of which weights."""

    here: Level
    there: Level
    points: tuple[Point, ...]
    weights: list[float]


class History(NamedTuple):
    """Outputs, the newest first, and the last step where a multistep update took it."""

    points: tuple[Point, ...]
    predicted: Predicted | None


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
        steps, spacing, start, stop, clip, temperature: see :class:`~diffsweep.samplers.base.Sampler`.
    """

    def __init__(
        self,
        order: int = 2,
        variant: Literal["bh1", "bh2"] = "bh2",
        warm_start: WarmStart = "singlestep",
        steps: int = 20,
        spacing: Spacing = "log_snr",
        start: float = 1.0,
        stop: float = 0.0,
        clip: Clip = "static",
        temperature: float = 1.0,
    ) -> None:
        self.order = one_of("order", order, (1, 2, 3)) + 1
        self.variant = one_of("variant", variant, ("bh1", "bh2"))
        super().__init__(order, warm_start, steps, spacing, start, stop, clip, temperature)

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
        first = Point(here.half_log_snr, denoised.x0)
        past = history if history is not None else History((), None)
        if past.predicted is not None and past.predicted.there == here:
            x = self._corrected(x, past.predicted, first)
        points = usable((first, *past.points)[: self.solver_order], there.half_log_snr)
        kept = points[: self.solver_order - 1]
        if len(points) < self.solver_order and self.warm_start == "singlestep":
            return self.single_step(self.solver_order, denoiser, x, here, there, first, cond), History(kept, None)
        scale, c, z = self.linear_part(here, there)
        weights = quadrature(nodes_of(points, here, there), self.moments(len(points), z))
        x = combine(x, scale, [(-c * z * w, point.output) for w, point in zip(weights, points, strict=True)])
        return x, History(kept, Predicted(here, there, points, weights))

    def _corrected(self, x: Tensor, predicted: Predicted, new: Point) -> Tensor:
        """x with the predictor's quadrature replaced by the corrector's, over one output more."""
        here, there, points, before = predicted
        _, c, z = self.linear_part(here, there)
        joined = (*points, new)
        after = quadrature(nodes_of(joined, here, there), self.moments(len(joined), z))
        changes = [w - v for w, v in zip(after, [*before, 0.0], strict=True)]
        return combine(x, 1.0, [(-c * z * w, point.output) for w, point in zip(changes, joined, strict=True)])

    def moments(self, order: int, z: float) -> list[float]:
        if order == 2:
            return [phi(1, z), 0.5 if self.variant == "bh1" else phi(1, z) / 2]
        return exact_moments(order, z)
