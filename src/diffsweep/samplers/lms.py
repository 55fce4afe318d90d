r"""Linear multistep solvers in sigma / alpha.

.. math:: x_s = \alpha_s \Big(\frac{x_t}{\alpha_t} + (r_s - r_t) \sum_k w_k \epsilon_k\Big), \quad r = \sigma / \alpha

is their step from t to s < t on the probability-flow ODE :math:`d(x / \alpha) = \epsilon \, dr`: its slope is a
weighted mean of the eps :math:`\epsilon_k` of this step and of the steps before. LMS computes the weights for steps of
any size; PLMS uses those of equal steps.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from diffsweep.diffusion import Denoised, Noise, Step, velocity
from diffsweep.samplers.base import Sampler, State, euler_step
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.samplers.exponential import Point, WarmStart, nodes_of, quadrature, usable
from diffsweep.samplers.options import one_of
from diffsweep.schedules import Level


class LinearMultistepSampler(Sampler):
    r"""A sampler whose step uses a weighted mean of the last eps as the slope of the probability-flow ODE.

    With :math:`r = \sigma / \alpha` the ODE is :math:`d(x / \alpha) = \epsilon \, dr`, and a step from t to s is

    .. math:: x_s = \alpha_s x_0 + \sigma_s \epsilon + \alpha_s (r_s - r_t) \sum_k w_k (\epsilon_k - \epsilon),
        \quad \sum_k w_k = 1,

    with the denoiser's :math:`x_0, \epsilon` at t and :math:`\epsilon_k` its eps at t and at the starts of the steps
    before. A subclass defines the weights w (:meth:`weights`), the steps for which eps are missing (:meth:`begin`), and
    ``memory``, the number of eps that a step uses.

    A step from alpha = 0, where r is infinite, leaves no eps for later steps. The step to clean data is Euler's where
    ``clip`` is on, so that the sample stays in the data's range. Where a trajectory has gone back in t, eps that do not
    lie before the step are dropped.
    """

    memory: int  # the number of eps that a step uses

    def advance(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], state: State | None, noise: Noise
    ) -> tuple[Tensor, State]:
        denoised, at_t, at_s = denoise(x, step.at_t), step.at_t, step.at_s
        slopes: tuple[Point, ...] = ()
        if at_t.alpha > 0:
            past = state.history if state is not None else ()
            slopes = usable((Point(at_t.ratio, denoised.eps), *past)[: self.memory], at_s.ratio)
        if at_s.sigma == 0 and self.clip != "none":
            x = euler_step(denoised, at_s.alpha, at_s.sigma)
        elif len(slopes) < self.memory and at_s.sigma > 0:
            x = self.begin(denoise, x, step, denoised, slopes)
        else:
            x = self.multistep(denoised, slopes, at_s)
        return x, State(denoised, slopes[: self.memory - 1])

    @abstractmethod
    def begin(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], denoised: Denoised, slopes: Sequence[Point]
    ) -> Tensor:
        """Return x at the end of a step for which fewer than ``memory`` eps are at hand; s is not clean data.

        Subclasses define it.

        Args:
            denoise: the denoiser with its condition and clipping, for network calls within the step.
            x: noisy samples at t, (B, ...).
            step: the noise levels at its two ends, t and s < t, as numbers.
            denoised: the denoiser's estimate at t.
            slopes: the eps at t and those of steps before, each with its sigma / alpha, newest first; empty where
                alpha_t is 0.
        """

    @abstractmethod
    def weights(self, slopes: Sequence[Point], ratio: float) -> list[float]:
        """Return the weight of each eps in a step to sigma / alpha = ``ratio``; the weights add up to 1.

        Subclasses define it.

        Args:
            slopes: the eps with their sigma / alpha, newest first, two or more.
            ratio: sigma / alpha at the end of the step.
        """

    def multistep(self, denoised: Denoised, slopes: Sequence[Point], at_s: Level[float]) -> Tensor:
        """Return x at s by the multistep formula from the given eps, newest first; by Euler's step for fewer than two.

        Args:
            denoised: the denoiser's estimate at t.
            slopes: the eps at t and those of steps before, each with its sigma / alpha.
            at_s: the noise level at the end of the step.
        """
        if len(slopes) < 2:
            return euler_step(denoised, at_s.alpha, at_s.sigma)
        change = at_s.alpha * (at_s.ratio - slopes[0].coordinate)
        newest, *older = self.weights(slopes, at_s.ratio)
        x = euler_step(denoised, at_s.alpha, at_s.sigma + change * (newest - 1))
        for weight, slope in zip(older, slopes[1:], strict=True):
            x.add_(slope.output, alpha=change * weight)
        return x


@dataclass(kw_only=True, eq=False)
class LMS(LinearMultistepSampler):
    r"""Sample with the linear multistep method of order p (k-diffusion's ``sample_lms``).

    It is the Adams-Bashforth method for steps of any size, in :math:`r = \sigma / \alpha`. A step from t to s < t takes
    one network call. Its slope is :math:`\sum_k w_k \epsilon_k`, with weights that integrate the polynomial through the
    last p eps:
    :math:`w_k = \frac{1}{r_s - r_t} \int_{r_t}^{r_s} \prod_{j \ne k} \frac{r - r_j}{r_k - r_j} \, dr`.

    Intended differences from the public codes (k-diffusion, diffusers). They begin with Euler's step and raise the
    order step by step, as ``warm_start=euler`` does. The single Euler step has an error of order 2, so the whole is of
    order 2 for any p above 2 where sampling starts late, at alpha = sigma for example. The default begins with
    classical Runge-Kutta steps of order 4 in the angle :math:`\mathrm{atan2}(\sigma, \alpha)`, which is finite where
    alpha is 0. The public codes integrate the polynomials numerically, diffusers to 1e-4 and in float32; here the
    integrals are exact.

    Args:
        order: p, 1 to 4.
        warm_start: how the first steps are taken, which lack earlier eps. ``singlestep``: by Runge-Kutta steps of 4
            network calls each; p - 1 of them, or p where sampling starts at alpha = 0; ``euler``: at the orders 1, ...,
            p - 1.

    Raises:
        ValueError: an option has another value.
    """

    steps: int = 20
    order: int = 4
    warm_start: WarmStart = "singlestep"

    def __post_init__(self) -> None:
        self.memory = one_of("order", self.order, (1, 2, 3, 4))
        one_of("warm_start", self.warm_start, ("singlestep", "euler"))
        super().__post_init__()

    def begin(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], denoised: Denoised, slopes: Sequence[Point]
    ) -> Tensor:
        if self.warm_start == "euler" or self.memory == 1:
            return self.multistep(denoised, slopes, step.at_s)
        begin, end = step.at_t.angle, step.at_s.angle
        h, middle, u = end - begin, (begin + end) / 2, x / step.at_t.norm
        k1 = velocity(denoised, begin)
        k2 = denoise.velocity(u.add(k1, alpha=h / 2), middle)
        k3 = denoise.velocity(u.add(k2, alpha=h / 2), middle)
        k4 = denoise.velocity(u.add(k3, alpha=h), end)
        u = u.add_(k1.add_(k2, alpha=2).add_(k3, alpha=2).add_(k4), alpha=h / 6)
        return u * step.at_s.norm

    def weights(self, slopes: Sequence[Point], ratio: float) -> list[float]:
        nodes = nodes_of(slopes, slopes[0].coordinate, ratio)
        return quadrature(nodes, [1 / (i + 1) for i in range(len(nodes))])
