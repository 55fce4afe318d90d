"""Training losses of a denoiser, one number a sample."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffsweep.capabilities import Part
from diffsweep.diffusion.bound import end_terms, grid_term
from diffsweep.diffusion.condition import Condition
from diffsweep.diffusion.denoiser import Denoiser, PlainDenoiser, as_denoiser
from diffsweep.diffusion.noise import Noise, Stream
from diffsweep.diffusion.process import mean_at, mean_of_frames
from diffsweep.diffusion.weighting import UniformWeighting, Weighting
from diffsweep.schedules import Schedule

_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": lambda output, target: (output - target).square(),
    "l1": lambda output, target: (output - target).abs(),
    "huber": lambda output, target: functional.huber_loss(output, target, reduction="none"),
}


class Objective(Part, ABC):
    """``loss = objective(denoiser, x_0, cond, t, eps)``. Time and noise are drawn outside, so losses compare.

    What of other parts it declares, as a :class:`~diffsweep.capabilities.Part`: it provides a ``bound`` where its mean over uniform times
    is one; it supports ``weights`` where the weighting is a part of it, and a ``learned_variance`` or a ``learned_schedule`` where it has
    a right gradient for them; it requires ``independent_noise`` where it is a bound, or has the score in it.
    """

    def __call__(
        self,
        denoiser: PlainDenoiser,
        x_0: Tensor,
        cond: Condition | None,
        t: Tensor,
        eps: Tensor,
        noise: Noise | None = None,
    ) -> Tensor:
        """Return the loss of each sample, (B,), the mean over its numbers.

        Args:
            denoiser: what is trained.
            x_0: clean samples, (B, ...).
            cond: their conditions.
            t: their times, (B,). Of clips (B, C, F, H, W) also (B, F): what depends on t weighs each frame then.
            eps: their noise, like x_0.
            noise: of the samples, for what an objective draws itself; by default under keys that are read off eps.
        """
        return self.losses(as_denoiser(denoiser), x_0, cond, t, eps, noise)

    @abstractmethod
    def losses(
        self, denoiser: Denoiser, x_0: Tensor, cond: Condition | None, t: Tensor, eps: Tensor, noise: Noise | None
    ) -> Tensor:
        """Return the losses: see :meth:`__call__`."""


class Simple(Objective):
    r"""The distance between output and target, averaged over a sample's numbers: L_simple (DDPM, arXiv:2006.11239, eq. 14).

    Args:
        loss: ``l2`` (squared), ``l1`` or ``huber`` (delta = 1).
        weighting: of noise levels; made for squared errors.
    """

    supports = frozenset({"weights"})

    def __init__(self, loss: Literal["l2", "l1", "huber"] = "l2", weighting: Weighting | None = None) -> None:
        if loss not in _DISTANCES:
            raise ValueError(f"objective.loss is one of {', '.join(_DISTANCES)}, not {loss}")
        self.distance = _DISTANCES[loss]
        self.weighting = weighting if weighting is not None else UniformWeighting()

    def losses(
        self, denoiser: Denoiser, x_0: Tensor, cond: Condition | None, t: Tensor, eps: Tensor, noise: Noise | None
    ) -> Tensor:
        alpha, sigma = denoiser.levels(x_0, t)
        output = denoiser.output(alpha * x_0 + sigma * eps, t, cond, (alpha, sigma))
        losses = mean_at(self.distance(output, denoiser.prediction.target(x_0, eps, alpha, sigma)), t)
        return mean_of_frames(self.weighting.weigh(losses, denoiser, t))


class Hybrid(Simple):
    r"""L_hybrid = L_simple + lambda L_vlb (improved DDPM, arXiv:2102.09672, eq. 16): for a learned variance.

    L_vlb is estimated by its term at t, T L_t in bits per dimension, so lambda = 0.001 weighs L_t by T/1000, as the public
    code does. The mean is detached within it: only the variance learns from the bound, in the one network call.

    Args:
        loss, weighting: see :class:`Simple`.
        vlb_weight: lambda.
        levels: the number of values that the data take; None where they are continuous.
    """

    requires = frozenset({"grid", "independent_noise"})
    supports = frozenset({"weights", "learned_variance"})

    def __init__(
        self,
        loss: Literal["l2", "l1", "huber"] = "l2",
        weighting: Weighting | None = None,
        vlb_weight: float = 0.001,
        levels: int | None = None,
    ) -> None:
        super().__init__(loss, weighting)
        if vlb_weight < 0:
            raise ValueError(f"objective.vlb_weight must be at least 0, not {vlb_weight}")
        self.vlb_weight, self.levels = vlb_weight, levels

    def losses(
        self, denoiser: Denoiser, x_0: Tensor, cond: Condition | None, t: Tensor, eps: Tensor, noise: Noise | None
    ) -> Tensor:
        schedule, prediction = denoiser.schedule, denoiser.prediction
        alpha, sigma = denoiser.levels(x_0, t)
        denoised = denoiser(alpha * x_0 + sigma * eps, t, cond)
        output = prediction.target(denoised.x0, denoised.eps, alpha, sigma)
        losses = mean_at(self.distance(output, prediction.target(x_0, eps, alpha, sigma)), t)
        bits = grid_term(schedule, denoised, x_0, t, self.levels, detach_mean=True)
        assert schedule.num_steps is not None
        losses = mean_of_frames(self.weighting.weigh(losses, denoiser, t))
        return losses + self.vlb_weight * schedule.num_steps * bits


class VLB(Objective):
    r"""The variational bound in bits per dimension, estimated at one time.

    On a discrete schedule T L_t, whose mean over uniform t is :math:`L_0 + ... + L_{T-1}` (improved DDPM). On a continuous
    one the limit (VDM, arXiv:2107.00630, eq. 17) :math:`-\frac12 \lambda'(t) \lVert\epsilon - \hat\epsilon\rVert^2`, plus what the
    two ends of the schedule cost: the prior's term and the decoder's, where a learned schedule has its gradients from.

    Args:
        levels: the number of values that the data take; None where they are continuous.
    """

    requires = frozenset({"uniform_times", "independent_noise"})
    supports = frozenset({"learned_variance", "learned_schedule"})
    provides = frozenset({"bound"})

    def __init__(self, levels: int | None = None) -> None:
        self.levels = levels

    def losses(
        self, denoiser: Denoiser, x_0: Tensor, cond: Condition | None, t: Tensor, eps: Tensor, noise: Noise | None
    ) -> Tensor:
        schedule = denoiser.schedule
        alpha, sigma = denoiser.levels(x_0, t)
        denoised = denoiser(alpha * x_0 + sigma * eps, t, cond)
        if schedule.num_steps is not None:
            return schedule.num_steps * grid_term(schedule, denoised, x_0, t, self.levels)
        rate = -(schedule.t_max - schedule.t_min) * schedule.log_snr_rate(t.double())
        squares = mean_at((denoised.eps - eps).square(), t)
        return mean_of_frames(0.5 / math.log(2) * rate.to(squares) * squares) + end_terms(
            schedule, x_0, eps, self.levels
        )


def _sigma2(schedule: Schedule, t: Tensor) -> Tensor:
    return schedule(t)[1] ** 2


def _likelihood(schedule: Schedule, t: Tensor) -> Tensor:
    return -schedule.log_snr_rate(t) * schedule(t)[1] ** 2


_LAMBDAS: dict[str, Callable[[Schedule, Tensor], Tensor]] = {
    "one": lambda schedule, t: torch.ones_like(t),
    "sigma2": _sigma2,
    "likelihood": _likelihood,
}
Lambda = Callable[[Schedule, Tensor], Tensor]


def _lambda(weight: str | Lambda) -> Lambda:
    if isinstance(weight, str) and weight not in _LAMBDAS:
        raise ValueError(f"objective.weight is one of {', '.join(_LAMBDAS)}, not {weight}")
    return _LAMBDAS[weight] if isinstance(weight, str) else weight


class DSM(Objective):
    r"""Denoising score matching (Vincent 2011; score SDE, arXiv:2011.13456, eq. 7):
    :math:`\lambda(t) \lVert s(x_t, t) - \nabla \log q(x_t | x_0) \rVert^2`, averaged over a sample's numbers.

    Args:
        weight: lambda(t): ``sigma2`` (the size of all levels alike), ``likelihood`` (g(t)^2, which bounds the likelihood:
            arXiv:2101.09258), ``one``; or, from Python, any function of the schedule and of t (float64).
    """

    def __init__(self, weight: Literal["sigma2", "likelihood", "one"] | Lambda = "sigma2") -> None:
        self.weight = _lambda(weight)
        if self.weight is _likelihood:
            self.requires = frozenset({"rate", "independent_noise"})

    def losses(
        self, denoiser: Denoiser, x_0: Tensor, cond: Condition | None, t: Tensor, eps: Tensor, noise: Noise | None
    ) -> Tensor:
        schedule = denoiser.schedule
        alpha, sigma = denoiser.levels(x_0, t)
        denoised = denoiser(alpha * x_0 + sigma * eps, t, cond)
        squares = mean_at((denoised.eps - eps).square(), t)  # sigma^2 times those of the score
        exact = t.double()
        return mean_of_frames(squares * (self.weight(schedule, exact) / schedule(exact)[1] ** 2).to(squares))


class SSM(Objective):
    r"""Sliced score matching (Song et al. 2019, arXiv:1905.07088, eq. 8, variance reduced):
    :math:`\lambda(t) (v^T \nabla s(x_t) v + \frac12 \lVert s \rVert^2)`, v random signs from a stream of their own, averaged over a sample's
    numbers.

    It never sees the noise that was added, only the samples; its mean differs from that of half of DSM by a constant. The
    gradient goes through the network twice, so attention is computed by its definition: fused kernels have no second derivative.

    Args:
        weight: lambda(t), see :class:`DSM`.
    """

    requires = frozenset({"independent_noise"})

    def __init__(self, weight: Literal["sigma2", "likelihood", "one"] | Lambda = "sigma2") -> None:
        self.weight = _lambda(weight)
        if self.weight is _likelihood:
            self.requires = frozenset({"rate", "independent_noise"})

    def losses(
        self, denoiser: Denoiser, x_0: Tensor, cond: Condition | None, t: Tensor, eps: Tensor, noise: Noise | None
    ) -> Tensor:
        schedule, keep = denoiser.schedule, torch.is_grad_enabled()
        alpha, sigma = denoiser.levels(x_0, t)
        noise = _keyed_by(eps) if noise is None else noise
        v = (noise.uniform(*x_0.shape[1:], stream=Stream.SIGNS) < 0.5).to(x_0) * 2 - 1
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            x_t = (alpha * x_0 + sigma * eps).detach().requires_grad_()
            score = -denoiser(x_t, t, cond).eps / sigma
            (product,) = torch.autograd.grad((score * v).sum(), x_t, create_graph=keep)
        losses = mean_at(product * v + 0.5 * score**2, t)
        losses = mean_of_frames(losses * self.weight(schedule, t.double()).to(losses))
        return losses if keep else losses.detach()


def _keyed_by(eps: Tensor) -> Noise:
    """Return the noise of samples that are known by their eps alone: a sample's key is read off its first and its last number."""
    first, last = (eps.flatten(1)[:, [0, -1]].abs().double() * 2**20).long().unbind(1)  # at most 6.7 in size: 23 bits
    return Noise(0, first << 23 | last)


def sums_by_quarter(values: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and counts of ``values`` (B,) in the quarters (0, 1/4], (1/4, 1/2], ... of t, each (4,); no device sync."""
    quarter = (torch.ceil(t * 4) - 1).clamp(0, 3).long()
    zeros = torch.zeros(4, dtype=values.dtype, device=values.device)
    return zeros.index_add(0, quarter, values), zeros.index_add(0, quarter, torch.ones_like(values))
