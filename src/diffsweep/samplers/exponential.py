r"""Exponential integrators in the log-SNR, the base of DPM-Solver, DPM-Solver++, UniPC and DEIS.

.. math:: x_s = \rho x_t - c z \int_0^1 e^{z (1 - \theta)} m(\lambda_t + \theta h) \, d\theta

is the exact solution of the probability-flow ODE from :math:`\lambda_t` to :math:`\lambda_s = \lambda_t + h`, where
:math:`\lambda = \log(\alpha / \sigma)` is half the log-SNR. Either m is the denoiser's x_0, with
:math:`z = -h, \rho = \sigma_s / \sigma_t, c = \alpha_s`, since the ODE is :math:`d(x / \sigma) = x_0 \, d e^\lambda`;
or m is its eps, with :math:`z = h, \rho = \alpha_s / \alpha_t, c = \sigma_s`, since the ODE is
:math:`d(x / \alpha) = \epsilon \, d e^{-\lambda}` as well.

A solver replaces the integral by :math:`\sum_k w_k m_k` over nodes :math:`\theta_k` at which m was evaluated. The
weights solve :math:`\sum_k w_k \theta_k^i = \mu_i`. They are exact for polynomials m where the moments are
:math:`\mu_i = \int_0^1 e^{z (1 - \theta)} \theta^i \, d\theta = i! \, \varphi_{i+1}(z)`; published solvers use simpler
moments where the order allows it.
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
Moments = Callable[[int, float], list[float]]  # from the number of outputs and z, the moments mu_i


class Point(NamedTuple):
    """An estimate of the denoiser, x0 or eps, and the noise level at which it was made, such as log(alpha / sigma).

    A multistep solver interpolates such points.
    """

    coordinate: float
    output: Tensor


def usable(points: tuple[Point, ...], target: float) -> tuple[Point, ...]:
    """Return the newest points, at least one, whose coordinates lie in order on the way to ``target``.

    Where a trajectory has gone back in t (:meth:`Sampler.step` allows it), an older point does not lie behind the newer
    one as seen from the target; it and all older ones are left out.

    Args:
        points: estimates of this step and of the steps before with their noise levels, newest first; not empty.
        target: the coordinate at which the step ends.
    """
    for count in range(1, len(points)):
        if (points[count - 1].coordinate - points[count].coordinate) * (target - points[0].coordinate) <= 0:
            return points[:count]
    return points


def phi(k: int, z: float) -> float:
    r"""Return :math:`\varphi_k(z)` for k >= 1, the functions of exponential integrators.

    .. math:: \varphi_k(z) = \int_0^1 e^{z (1 - \theta)} \theta^{k-1} / (k-1)! \, d\theta

    :math:`\varphi_1 = (e^z - 1) / z` and :math:`\varphi_{k+1} = (\varphi_k - 1/k!) / z`. For |z| < 1 a series avoids
    the cancellation.
    """
    if abs(z) < 1:
        return sum(z**j / math.factorial(j + k) for j in range(18))
    value = math.expm1(z) / z
    for i in range(1, k):
        value = (value - 1 / math.factorial(i)) / z
    return value


def exact_moments(count: int, z: float) -> list[float]:
    r"""Return :math:`\int_0^1 e^{z (1 - \theta)} \theta^i d\theta = i! \, \varphi_{i+1}(z)`, 0 <= i < ``count``."""
    return [math.factorial(i) * phi(i + 1, z) for i in range(count)]


def middle_moments(count: int, z: float) -> list[float]:
    r"""Return the first ``count`` <= 2 of :math:`\varphi_1(z), \varphi_1(z) / 2`, moments of published solvers."""
    return [phi(1, z), phi(1, z) / 2][:count]


def quadrature(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    r"""Return the weights w with :math:`\sum_k w_k \theta_k^i = \mu_i` for i = 0, 1, ..., one for each node.

    Weight k is the integral, by the moments, of the Lagrange polynomial that is 1 at node k and 0 at the others.

    Args:
        nodes: distinct :math:`\theta_k`.
        moments: :math:`\mu_i`, the integrals of :math:`\theta^i` with some weight function, as many as nodes.
    """
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
    """Return ``scale x`` plus the sum of the estimates in ``points``, (B, ...) like x, each times its weight."""
    result = x * scale
    for point, weight in zip(points, weights, strict=True):
        result.add_(point.output, alpha=weight)
    return result


def nodes_of(points: Sequence[Point], begin: float, end: float) -> list[float]:
    """Return the coordinates of points relative to a step: 0 at its beginning, 1 at its end, negative before it.

    Args:
        points: estimates of x0 or eps at earlier or inner times, with their coordinates, such as log(alpha / sigma).
        begin, end: the coordinates of the beginning and the end of the step; they differ.
    """
    return [(point.coordinate - begin) / (end - begin) for point in points]


@dataclass(kw_only=True, eq=False)
class ExponentialSampler(Sampler):
    """A sampler that solves the probability-flow ODE in the log-SNR, with its linear part solved exactly.

    A subclass defines :meth:`solve`, a step between finite log-SNRs, and integrates x0 (by :class:`InX0`) or eps (by
    :class:`InEps`). A step from or to an infinite log-SNR (clean data; t = 1 of a schedule of zero terminal SNR) is
    DDIM's, ``x_s = alpha_s x0 + sigma_s eps``, and leaves no history.
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
        """Return x at the end of a step between distinct finite log-SNRs, and the history for the next step.

        Subclasses define it. The history is whatever the solver remembers; None for a solver without history.

        Args:
            denoise: the denoiser with its condition and clipping, for network calls within the step.
            x: noisy samples at t, (B, ...).
            step: the noise levels at its two ends, t and s < t, as numbers.
            denoised: the denoiser's estimate at t.
            history: what the previous step returned; None for the first step and after a step of infinite log-SNR.
        """

    @abstractmethod
    def output(self, denoised: Denoised) -> Tensor:
        """Return the estimate that the solver integrates: x0 in subclasses of InX0, eps in subclasses of InEps."""

    @abstractmethod
    def linear_part(self, at_t: Level[float], at_s: Level[float]) -> tuple[float, float, float]:
        r"""Return :math:`\rho, c, z` of :math:`x_s = \rho x_t - c z \int_0^1 e^{z (1 - \theta)} m \, d\theta`.

        That is the exact step from t to s, with m the estimate that is integrated: see :class:`InX0`, :class:`InEps`.
        """

    def point(self, level: Level[float], denoised: Denoised) -> Point:
        """Return the estimate that is integrated (:meth:`output`) with log(alpha / sigma) as its coordinate."""
        return Point(level.half_log_snr, self.output(denoised))

    def weights(
        self, at_t: Level[float], at_s: Level[float], points: Sequence[Point], moments: Moments = exact_moments
    ) -> list[float]:
        """Return the factor :math:`-c z w_k` of each estimate in a step from t to s: see :meth:`linear_part`.

        Args:
            at_t, at_s: the noise levels at the two ends of the step.
            points: the K estimates, each with its log(alpha / sigma).
            moments: a function of K and z that returns the K moments of which :func:`quadrature` makes the weights w.
        """
        _, c, z = self.linear_part(at_t, at_s)
        return [
            -c * z * w
            for w in quadrature(nodes_of(points, at_t.half_log_snr, at_s.half_log_snr), moments(len(points), z))
        ]

    def integrated(
        self,
        x: Tensor,
        at_t: Level[float],
        at_s: Level[float],
        points: Sequence[Point],
        moments: Moments = exact_moments,
    ) -> Tensor:
        """Return x at s from ``x`` at t by a weighted sum of the estimates in ``points``: see :meth:`weights`."""
        return combine(x, self.linear_part(at_t, at_s)[0], points, self.weights(at_t, at_s, points, moments))

    def single_step(
        self, order: int, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], denoised: Denoised
    ) -> Tensor:
        r"""Return x at s by a step of order 1, 2 or 3 that uses no history.

        It takes ``order`` network calls, of which the first, at t, is given as ``denoised``. Order 2 also evaluates the
        denoiser at the middle of the step in log-SNR, with :func:`middle_moments`; order 3 at one third and at two
        thirds, with exact moments. These are the published DPM-Solver-2 and 3, and DPM-Solver++ 2S and 3S.
        """
        at_t, at_s, first = step.at_t, step.at_s, self.point(step.at_t, denoised)

        def inner(share: float, *points: Point) -> Point:
            between = denoise.schedule.at_log_snr(
                2 * (at_t.half_log_snr + share * (at_s.half_log_snr - at_t.half_log_snr))
            )
            return self.point(between, denoise(self.integrated(x, at_t, between, points), between))

        if order == 1:
            return self.integrated(x, at_t, at_s, [first])
        if order == 2:
            return self.integrated(x, at_t, at_s, [first, inner(1 / 2, first)], middle_moments)
        return self.integrated(x, at_t, at_s, [first, inner(2 / 3, first, inner(1 / 3, first))])


class InX0:
    r"""A mixin of solvers that integrate x0, as in :math:`d(x / \sigma) = x_0 \, d (\alpha / \sigma)`."""

    def output(self, denoised: Denoised) -> Tensor:
        return denoised.x0

    def linear_part(self, at_t: Level[float], at_s: Level[float]) -> tuple[float, float, float]:
        return at_s.sigma / at_t.sigma, at_s.alpha, at_t.half_log_snr - at_s.half_log_snr


class InEps:
    r"""A mixin of solvers that integrate eps, as in :math:`d(x / \alpha) = \epsilon \, d (\sigma / \alpha)`."""

    def output(self, denoised: Denoised) -> Tensor:
        return denoised.eps

    def linear_part(self, at_t: Level[float], at_s: Level[float]) -> tuple[float, float, float]:
        return at_s.alpha / at_t.alpha, at_s.sigma, at_s.half_log_snr - at_t.half_log_snr


@dataclass(kw_only=True, eq=False)
class MultistepSampler(ExponentialSampler):
    """A multistep solver of order p, whose step uses the denoiser's estimates of the p - 1 steps before it.

    A step takes one network call.

    Args:
        order: p. On the object, ``.order`` is the order of convergence, see :meth:`convergence`.
        warm_start: how the first p - 1 steps are taken, for which estimates are missing (so too after a step from
            infinite log-SNR). ``singlestep``: by single steps of order p, each of p network calls, so p (p - 1) calls
            in place of p - 1; ``euler``: at the orders 1, ..., p - 1, as the public codes do, with no further call, but
            with a lower order of convergence where p is 3 and sampling starts late, at alpha = sigma for example.

    Attributes:
        orders: the orders that the solver supports.
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
            x = self.integrated(x, at_t, at_s, points, self.moments)
        return x, points[: self.solver_order - 1]

    def moments(self, count: int, z: float) -> list[float]:
        """Return the moments for :meth:`weights` of a multistep update with ``count`` estimates; exact by default."""
        return exact_moments(count, z)
