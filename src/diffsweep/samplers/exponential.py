r"""What the solvers in log-SNR share: exponential integrators (DPM-Solver, UniPC, DEIS).

With :math:`\lambda = \log(\alpha / \sigma)`, half the log-SNR, the sampling ODE is :math:`d(x / \sigma) = x_0 \, d e^\lambda`, and as well
:math:`d(x / \alpha) = \epsilon \, d e^{-\lambda}`, for any alpha and sigma. From :math:`\lambda_t` to :math:`\lambda_s = \lambda_t + h`, with m the x_0
and z = -h, or m the eps and z = h, both are

.. math:: x_s = \rho x_t - c z \int_0^1 e^{z (1 - \theta)} m(\lambda_t + \theta h) \, d\theta,

with :math:`\rho = \sigma_s / \sigma_t, c = \alpha_s` for x_0 and :math:`\rho = \alpha_s / \alpha_t, c = \sigma_s` for eps. A solver replaces the integral by
:math:`\sum_k w_k m_k` over points :math:`\theta_k` where m is known. The weights are those with :math:`\sum_k w_k \theta_k^i = \mu_i`: exact for polynomials
where :math:`\mu_i = i! \, \varphi_{i+1}(z)`, the integral of :math:`\theta^i`; published solvers take simpler moments where the order allows it.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor

from diffsweep.diffusion import Denoised, Noise, Step
from diffsweep.samplers.base import Sampler, State, euler_step
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.samplers.options import Spacing, one_of
from diffsweep.schedules import Level

WarmStart = Literal["singlestep", "euler"]
Moments = Callable[[int, float], list[float]]  # of how many outputs, at z


class Point(NamedTuple):
    """What a denoiser said: ``output``, the x0 or the eps, at a ``place`` on the way, such as log(alpha / sigma)."""

    place: float
    output: Tensor


def usable(points: tuple[Point, ...], at_s: float) -> tuple[Point, ...]:
    """Return, of points, newest first, those up to the first that does not lie before the one after it, on the way to ``there``: a walk
    may have gone back in t."""
    for count in range(1, len(points)):
        if (points[count - 1].place - points[count].place) * (at_s - points[0].place) <= 0:
            return points[:count]
    return points


def phi(k: int, z: float) -> float:
    r""":math:`\varphi_k(z) = \int_0^1 e^{z (1 - \theta)} \theta^{k-1} / (k-1)! \, d\theta` for k >= 1: :math:`\varphi_1 = (e^z - 1) / z`,
    :math:`\varphi_{k+1} = (\varphi_k - 1/k!) / z`, whose cancellation for small z a series avoids."""
    if abs(z) < 1:
        return sum(z**j / math.factorial(j + k) for j in range(18))
    value = math.expm1(z) / z
    for i in range(1, k):
        value = (value - 1 / math.factorial(i)) / z
    return value


def exact_moments(count: int, z: float) -> list[float]:
    r""":math:`\int_0^1 e^{z (1 - \theta)} \theta^i d\theta = i! \, \varphi_{i+1}(z)` for i below ``count``."""
    return [math.factorial(i) * phi(i + 1, z) for i in range(count)]


def middle_moments(count: int, z: float) -> list[float]:
    r"""Return :math:`\varphi_1, \varphi_1 / 2` for the two outputs of a step through its middle."""
    return [phi(1, z), phi(1, z) / 2][:count]


def quadrature(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    r"""The weights of distinct nodes with :math:`\sum_k w_k \theta_k^i = \mu_i`: each Lagrange polynomial under the moments."""
    weights = []
    for node in nodes:
        polynomial = [1.0]  # coefficients, lowest first
        for other in nodes:
            if other != node:
                shifted = [0.0, *polynomial]
                polynomial = [
                    (up - other * low) / (node - other) for up, low in zip(shifted, [*polynomial, 0.0], strict=True)
                ]
        weights.append(sum(c * moment for c, moment in zip(polynomial, moments, strict=True)))
    return weights


def combine(x: Tensor, scale: float, points: Sequence[Point], weights: Sequence[float]) -> Tensor:
    """Return ``scale x`` and the weighted outputs of points."""
    result = x * scale
    for point, weight in zip(points, weights, strict=True):
        result.add_(point.output, alpha=weight)
    return result


def nodes_of(points: Sequence[Point], at_t: float, at_s: float) -> list[float]:
    """Return where points lie on the way: 0 here, 1 there, below 0 before."""
    return [(point.place - at_t) / (at_s - at_t) for point in points]


@dataclass(kw_only=True, eq=False)
class ExponentialSampler(Sampler):
    """A solver in log-SNR. A subclass takes a step between finite log-SNRs, and integrates x0 (:class:`InX0`) or eps (:class:`InEps`).

    A step from or to an infinite log-SNR (clean data; t = 1 of a schedule of zero terminal SNR) is DDIM's,
    ``x_s = alpha_s x0 + sigma_s eps``, and leaves no history.
    """

    steps: int = 20
    spacing: Spacing = "log_snr"

    def advance(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], state: State | None, noise: Noise
    ) -> tuple[Tensor, State]:
        denoised, at_s = denoise(x, step.at_t), step.at_s
        h = at_s.half_log_snr - step.at_t.half_log_snr
        if h == 0 or not math.isfinite(h):
            return euler_step(denoised, at_s.alpha, at_s.sigma), State(denoised)
        x, history = self.solve(denoise, x, step, denoised, state.history if state is not None else None)
        return x, State(denoised, history)

    @abstractmethod
    def solve(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], denoised: Denoised, history: Any
    ) -> tuple[Tensor, Any]:
        """Take a step between distinct finite log-SNRs: return x there, and the history for the next step; None for none."""

    @abstractmethod
    def output(self, denoised: Denoised) -> Tensor:
        """Return what is integrated: the x0 or the eps."""

    @abstractmethod
    def linear_part(self, at_t: Level[float], at_s: Level[float]) -> tuple[float, float, float]:
        """Return rho, c and z of the formula."""

    def point(self, at: Level[float], denoised: Denoised) -> Point:
        """Return what is integrated, at its place."""
        return Point(at.half_log_snr, self.output(denoised))

    def weights(
        self, at_t: Level[float], at_s: Level[float], points: Sequence[Point], moments: Moments = exact_moments
    ) -> list[float]:
        """Return what the quadrature multiplies each output by, :math:`-c z w_k`."""
        _, c, z = self.linear_part(at_t, at_s)
        return [
            -c * z * w
            for w in quadrature(nodes_of(points, at_t.half_log_snr, at_s.half_log_snr), moments(len(points), z))
        ]

    def moved(
        self,
        x: Tensor,
        at_t: Level[float],
        at_s: Level[float],
        points: Sequence[Point],
        moments: Moments = exact_moments,
    ) -> Tensor:
        """Return x there, by the quadrature over ``points``."""
        return combine(x, self.linear_part(at_t, at_s)[0], points, self.weights(at_t, at_s, points, moments))

    def single_step(
        self, order: int, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], denoised: Denoised
    ) -> Tensor:
        r"""Take a step of order 1, 2 or 3 that needs no history, of as many network calls, one of which is ``denoised``.

        Order 2 goes through the middle, with :func:`middle_moments`; order 3 through a third and two thirds of the step,
        with exact moments: the published DPM-Solver-2 and 3, DPM-Solver++ 2S and 3S.
        """
        at_t, at_s, first = step.at_t, step.at_s, self.point(step.at_t, denoised)

        def inner(share: float, *points: Point) -> Point:
            between = denoise.schedule.at_log_snr(
                2 * (at_t.half_log_snr + share * (at_s.half_log_snr - at_t.half_log_snr))
            )
            return self.point(between, denoise(self.moved(x, at_t, between, points), between))

        if order == 1:
            return self.moved(x, at_t, at_s, [first])
        if order == 2:
            return self.moved(x, at_t, at_s, [first, inner(1 / 2, first)], middle_moments)
        return self.moved(x, at_t, at_s, [first, inner(2 / 3, first, inner(1 / 3, first))])


class InX0:
    """Integrates x0, over x / sigma."""

    def output(self, denoised: Denoised) -> Tensor:
        return denoised.x0

    def linear_part(self, at_t: Level[float], at_s: Level[float]) -> tuple[float, float, float]:
        return at_s.sigma / at_t.sigma, at_s.alpha, at_t.half_log_snr - at_s.half_log_snr


class InEps:
    """Integrates eps, over x / alpha."""

    def output(self, denoised: Denoised) -> Tensor:
        return denoised.eps

    def linear_part(self, at_t: Level[float], at_s: Level[float]) -> tuple[float, float, float]:
        return at_s.alpha / at_t.alpha, at_s.sigma, at_s.half_log_snr - at_t.half_log_snr


@dataclass(kw_only=True, eq=False)
class MultistepSampler(ExponentialSampler):
    """A solver whose step of order p uses p - 1 outputs of the steps before: one network call a step.

    Args:
        order: p; ``.order`` is then the order of convergence, see :meth:`convergence`.
        warm_start: how a walk takes its first p - 1 steps, where outputs are missing (and again after a step from infinite
            log-SNR). ``singlestep``: by single steps of order p, each of p network calls in place of one, so p (p - 1) calls in
            place of p - 1; ``euler``: at the orders 1, ..., p - 1, as the public codes do, with no further call but at
            the price of the order of convergence where p is 3 and the log-SNR begins late.

    Attributes:
        orders: those that there are.
        solver_order: p.
    """

    orders: ClassVar[Sequence[int]] = (1, 2, 3)
    order: int | None = 2
    warm_start: WarmStart = "singlestep"

    def __post_init__(self) -> None:
        self.solver_order = one_of("order", self.order, self.orders)
        one_of("warm_start", self.warm_start, ("singlestep", "euler"))
        self.order = self.convergence()
        super().__post_init__()

    def convergence(self) -> int | None:
        """Return the order of convergence; None for a stochastic solver."""
        return self.solver_order

    def solve(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], denoised: Denoised, history: Any
    ) -> tuple[Tensor, Any]:
        at_t, at_s = step.at_t, step.at_s
        points = usable((self.point(at_t, denoised), *(history or ()))[: self.solver_order], at_s.half_log_snr)
        if len(points) < self.solver_order and self.warm_start == "singlestep":
            x = self.single_step(self.solver_order, denoise, x, step, denoised)
        else:
            x = self.moved(x, at_t, at_s, points, self.moments)
        return x, points[: self.solver_order - 1]

    def moments(self, count: int, z: float) -> list[float]:
        """Return those of the multistep update of ``count`` outputs; exact by default."""
        return exact_moments(count, z)
