"""Linear multistep solvers in sigma / alpha, and the one whose coefficients fit the steps as they lie."""

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
    r"""With :math:`r = \sigma / \alpha` the sampling ODE is :math:`d(x / \alpha) = \epsilon \, dr`, and a step takes a weighted mean of the eps
    of this step and of those before it for the slope:

    .. math:: x_s = \alpha_s x_0 + \sigma_s \epsilon + \alpha_s (r_s - r_t) \sum_k w_k (\epsilon_k - \epsilon), \quad \sum_k w_k = 1.

    From where no signal is left, r being infinite, the step is Euler's and leaves no history. So is the step to clean data
    where ``clip`` is on, so that the sample stays in the data's range. History that does not lie before the step, in a walk that has
    gone back in t, is dropped.
    """

    memory: int  # how many eps a step uses

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
        """Take a step, not to clean data, for which some history is missing; ``slopes`` is empty where no signal is left."""

    @abstractmethod
    def weights(self, slopes: Sequence[Point], ratio: float) -> list[float]:
        """Return the weights of the newest slope, an eps at its sigma / alpha, and of those before it, for a step to ``ratio``."""

    def multistep(self, denoised: Denoised, slopes: Sequence[Point], at_s: Level[float]) -> Tensor:
        """Return x there by the slopes there are, the newest first; by Euler's step for none."""
        if len(slopes) < 2:
            return euler_step(denoised, at_s.alpha, at_s.sigma)
        change = at_s.alpha * (at_s.ratio - slopes[0].place)
        newest, *older = self.weights(slopes, at_s.ratio)
        x = euler_step(denoised, at_s.alpha, at_s.sigma + change * (newest - 1))
        for weight, slope in zip(older, slopes[1:], strict=True):
            x.add_(slope.output, alpha=change * weight)
        return x


@dataclass(kw_only=True, eq=False)
class LMS(LinearMultistepSampler):
    r"""Linear multistep of order p (k-diffusion's ``sample_lms``; Adams and Bashforth's method for steps of any size): the weights are those
    of the polynomial through the last p eps, :math:`w_k = \frac{1}{r_s - r_t} \int_{r_t}^{r_s} \prod_{j \ne k} \frac{r - r_j}{r_k - r_j} \, dr`.
    One network call a step.

    Differences from the public codes (k-diffusion, diffusers), kept on purpose. They begin with Euler's step and raise the order
    step by step: ``warm_start=euler`` gives that, which is of order 2 for any p
    above where the walk starts late (Euler's one step has an error of order 2). Ours begins with Runge and Kutta's classical step of order 4
    in the angle :math:`\mathrm{atan2}(\sigma, \alpha)`, finite where no signal is left.
    They integrate the polynomials
    numerically, diffusers to 1e-4 and in float32; here they are exact.

    Args:
        order: p, 1 to 4.
        warm_start: how the steps that lack history are taken. ``singlestep``: by Runge and Kutta's, of 4 network calls each in
            place of 1, p - 1 of them (p where the walk begins with no signal); ``euler``: at the orders 1, ..., p - 1.
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
        at_t, at_s = step.at_t.angle, step.at_s.angle
        h, middle, u = at_s - at_t, (at_t + at_s) / 2, x / step.at_t.norm
        k1 = velocity(denoised, at_t)
        k2 = denoise.velocity(u.add(k1, alpha=h / 2), middle)
        k3 = denoise.velocity(u.add(k2, alpha=h / 2), middle)
        k4 = denoise.velocity(u.add(k3, alpha=h), at_s)
        u = u.add_(k1.add_(k2, alpha=2).add_(k3, alpha=2).add_(k4), alpha=h / 6)
        return u * step.at_s.norm

    def weights(self, slopes: Sequence[Point], ratio: float) -> list[float]:
        nodes = nodes_of(slopes, slopes[0].place, ratio)
        return quadrature(nodes, [1 / (i + 1) for i in range(len(nodes))])
