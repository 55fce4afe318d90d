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
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, Noise, Step
from diffsweep.samplers.base import Clip, Sampler, Spacing, State, euler_step

WarmStart = Literal["singlestep", "euler"]
Choice = TypeVar("Choice", int, str)
Located = TypeVar("Located", bound=tuple[Any, ...])


class Point(NamedTuple):
    """What a denoiser said: ``output``, the x0 or the eps, at ``half_log_snr`` = log(alpha / sigma)."""

    half_log_snr: float
    output: Tensor


class Level(NamedTuple):
    """alpha and sigma of one time."""

    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf


def one_of(key: str, value: Choice, allowed: Sequence[Choice]) -> Choice:
    """``value``, if allowed."""
    if value not in allowed:
        raise ValueError(f"sampler.{key} is one of {', '.join(map(str, allowed))}, not {value}")
    return value


def usable(points: tuple[Located, ...], there: float) -> tuple[Located, ...]:
    """Of points, newest first, each of which starts with its place: those up to the first that does not lie before the one
    after it, on the way to ``there``. A walk may have gone back in t."""
    for count in range(1, len(points)):
        if (points[count - 1][0] - points[count][0]) * (there - points[0][0]) <= 0:
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


def combine(x: Tensor, scale: float, terms: Sequence[tuple[float, Tensor]]) -> Tensor:
    """``scale x + sum of factor * tensor``."""
    result = x * scale
    for factor, tensor in terms:
        result.add_(tensor, alpha=factor)
    return result


class ExponentialSampler(Sampler):
    """A solver in log-SNR. A subclass says which output it integrates, and how it takes a step between finite log-SNRs.

    A step from or to an infinite log-SNR (clean data; t = 1 of a schedule of zero terminal SNR) is DDIM's,
    ``x_s = alpha_s x0 + sigma_s eps``, and leaves no history.
    """

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
        denoised = self.denoise(denoiser, x, t, pair, cond)
        here, there = Level(pair.alpha_t, pair.sigma_t), Level(pair.alpha_s, pair.sigma_s)
        if here.half_log_snr == there.half_log_snr or math.isinf(there.half_log_snr - here.half_log_snr):
            return euler_step(denoised, pair.alpha_s, pair.sigma_s), State(denoised)
        history = state.history if state is not None else None
        x, history = self.solve(denoiser, x, here, there, denoised, history, cond)
        return x, State(denoised, history)

    @abstractmethod
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
        """One step between distinct finite log-SNRs: x there, and the history for the next step; None for none."""

    @abstractmethod
    def output(self, denoised: Denoised) -> Tensor:
        """What is integrated: the x0 or the eps."""

    @abstractmethod
    def linear_part(self, here: Level, there: Level) -> tuple[float, float, float]:
        """rho, c and z of the formula."""

    def moved(
        self,
        x: Tensor,
        here: Level,
        there: Level,
        points: Sequence[Point],
        moments: Sequence[float] | None = None,
    ) -> Tensor:
        """x there, by the quadrature over ``points``, with exact moments by default."""
        scale, c, z = self.linear_part(here, there)
        moments = moments if moments is not None else exact_moments(len(points), z)
        weights = quadrature(nodes_of(points, here, there), moments)
        return combine(x, scale, [(-c * z * w, point.output) for w, point in zip(weights, points, strict=True)])

    def single_step(
        self, order: int, denoiser: Denoiser, x: Tensor, here: Level, there: Level, first: Point, cond: Condition | None
    ) -> Tensor:
        r"""A step of order 1, 2 or 3 that needs no history, of as many network calls, one of which is ``first``.

        Order 2 goes through the middle, with moments :math:`\varphi_1, \varphi_1 / 2`; order 3 through a third and two thirds of the step,
        with exact moments: the published DPM-Solver-2 and 3, DPM-Solver++ 2S and 3S.
        """
        if order == 1:
            return self.moved(x, here, there, [first])

        def look(share: float, *points: Point) -> Point:
            log_snr = 2 * (here.half_log_snr + share * (there.half_log_snr - here.half_log_snr))
            located = denoiser.schedule.at_log_snr(log_snr)
            between = Level(located.alpha, located.sigma)
            denoised = self.denoise_at(denoiser, self.moved(x, here, between, points), located, cond)
            return Point(between.half_log_snr, self.output(denoised))

        if order == 2:
            *_, z = self.linear_part(here, there)
            return self.moved(x, here, there, [first, look(1 / 2, first)], [phi(1, z), phi(1, z) / 2])
        return self.moved(x, here, there, [first, look(2 / 3, first, look(1 / 3, first))])


class InX0(ExponentialSampler):
    """Integrates x0, over x / sigma."""

    def output(self, denoised: Denoised) -> Tensor:
        return denoised.x0

    def linear_part(self, here: Level, there: Level) -> tuple[float, float, float]:
        return there.sigma / here.sigma, there.alpha, here.half_log_snr - there.half_log_snr


class InEps(ExponentialSampler):
    """Integrates eps, over x / alpha."""

    def output(self, denoised: Denoised) -> Tensor:
        return denoised.eps

    def linear_part(self, here: Level, there: Level) -> tuple[float, float, float]:
        return there.alpha / here.alpha, there.sigma, there.half_log_snr - here.half_log_snr


class MultistepSampler(ExponentialSampler):
    """A solver whose step of order p uses p - 1 outputs of the steps before: one network call a step.

    Args:
        order: p.
        warm_start: how a walk takes its first p - 1 steps, where outputs are missing (and again after a step from infinite
            log-SNR). ``singlestep``: by single steps of order p, each of p network calls in place of one, so p (p - 1) calls in
            place of p - 1; ``euler``: at the orders 1, ..., p - 1, as the public codes do, with no further call but at
            the price of the order of convergence where p is 3 and the log-SNR begins late.
        steps, spacing, start, stop, clip, temperature: see :class:`~diffsweep.samplers.base.Sampler`.
    """

    def __init__(
        self,
        order: int,
        warm_start: WarmStart,
        steps: int,
        spacing: Spacing,
        start: float,
        stop: float,
        clip: Clip,
        temperature: float,
    ) -> None:
        super().__init__(steps, spacing, start, stop, clip, temperature)
        self.solver_order, self.warm_start = order, one_of("warm_start", warm_start, ("singlestep", "euler"))

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
        first = Point(here.half_log_snr, self.output(denoised))
        points = usable((first, *(history or ()))[: self.solver_order], there.half_log_snr)
        if len(points) < self.solver_order and self.warm_start == "singlestep":
            x = self.single_step(self.solver_order, denoiser, x, here, there, first, cond)
        else:
            *_, z = self.linear_part(here, there)
            x = self.moved(x, here, there, points, self.moments(len(points), z))
        return x, points[: self.solver_order - 1]

    def moments(self, order: int, z: float) -> list[float]:
        """Of the multistep update of this order; exact by default."""
        return exact_moments(order, z)


def nodes_of(points: Sequence[Point], here: Level, there: Level) -> list[float]:
    """Where points lie on the way: 0 here, 1 there, below 0 before."""
    h = there.half_log_snr - here.half_log_snr
    return [(point.half_log_snr - here.half_log_snr) / h for point in points]
