r"""Training losses of a denoiser at :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`, one number for each sample.

==================  ======================================================================================
class               loss, with the denoiser's estimates :math:`\hat x_0, \hat\epsilon`
==================  ======================================================================================
:class:`Simple`     :math:`w(t) \, \lVert \hat F - F \rVert^2`, the error of the network's output :math:`\hat F`
:class:`VLB`        a term of the variational bound, in bits per dimension
:class:`Hybrid`     :class:`Simple` plus a small multiple of the bound, for a learned variance
:class:`DSM`        :math:`\lambda(t) \lVert \hat s - \nabla \log q(x_t | x_0) \rVert^2` of the score :math:`\hat s`
:class:`SSM`        :math:`\lambda(t) (v^T \nabla \hat s \, v + \frac12 \lVert \hat s \rVert^2)` in random directions v
==================  ======================================================================================

The score is :math:`\hat s = -\hat\epsilon / \sigma_t`. Squares are averaged over the numbers of a sample.
"""

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
    """A training loss, called as ``loss = objective(denoiser, x_0, cond, t, eps)``.

    Times and noise are drawn outside, so that losses of different models can be compared on the same draws. A subclass
    defines :meth:`losses`.

    An objective declares (:class:`~diffsweep.capabilities.Part`) that it provides a ``bound`` if its mean over uniform
    times is one. It supports ``weights`` if it has a weighting, and ``learned_variance`` or ``learned_schedule`` if its
    gradients train them rightly. It requires ``independent_noise`` if it is a bound or contains the score. If its
    ``second_derivatives`` is true, training takes those of the network, which compiled networks do not have.
    """

    second_derivatives = False

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
            denoiser: the model to train.
            x_0: clean samples, (B, ...).
            cond: their conditions; None for none.
            t: their times, (B,); for clips (B, C, F, H, W) also (B, F), by which each frame has its own noise level and
                weight.
            eps: their noise, like x_0.
            noise: a source of further random numbers for objectives that draw some; by default one with keys made of
                eps.
        """
        return self.losses(as_denoiser(denoiser), x_0, cond, t, eps, noise)

    @abstractmethod
    def losses(
        self, denoiser: Denoiser, x_0: Tensor, cond: Condition | None, t: Tensor, eps: Tensor, noise: Noise | None
    ) -> Tensor:
        """Return the loss of each sample, (B,), with the arguments of :meth:`__call__`; each subclass defines it."""


class Simple(Objective):
    """The distance between the network's output and its target: L_simple (DDPM, arXiv:2006.11239, eq. 14).

    It is averaged over the numbers of a sample.

    Args:
        loss: ``l2`` (squared), ``l1`` or ``huber`` (delta = 1); a ValueError is raised for any other.
        weighting: the weight of each noise level, made for squared errors; 1 by default.
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
    """The loss L_hybrid = L_simple + lambda L_vlb, for a learned variance (improved DDPM, arXiv:2102.09672, eq. 16).

    L_vlb is estimated by its term at t, T L_t in bits per dimension, so lambda = 0.001 weighs L_t by T/1000, as the
    public code does. The mean is detached in L_vlb: only the variance learns from the bound. Both losses share one
    network call. The schedule must be discrete, with T steps.

    Args:
        loss, weighting: those of :class:`Simple`.
        vlb_weight: lambda, at least 0.
        levels: the number of equally spaced values on [-1, 1] that the data take; None for continuous data.

    Raises:
        ValueError: an argument is out of its range.
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

    On a discrete schedule it is T L_t, whose mean over uniform t is :math:`L_0 + ... + L_{T-1}` (improved DDPM). On a
    continuous one it is the limit
    :math:`-\frac12 (t_{max} - t_{min}) \lambda'(t) \lVert\epsilon - \hat\epsilon\rVert^2` with the log-SNR
    :math:`\lambda` (VDM, arXiv:2107.00630, eq. 17), plus the terms of the prior and the decoder at the two ends of the
    schedule, from which a learned schedule has its gradients. The prior's term of a discrete schedule, which has no
    gradient, is left out.

    Args:
        levels: the number of equally spaced values on [-1, 1] that the data take; None for continuous data.
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
    r"""The loss of denoising score matching, :math:`\lambda(t) \lVert s(x_t, t) - \nabla \log q(x_t | x_0) \rVert^2`.

    Here s is the score that the denoiser estimates. The loss is averaged over the numbers of a sample (Vincent 2011;
    score SDE, arXiv:2011.13456, eq. 7).

    Args:
        weight: lambda(t). ``sigma2``: sigma_t^2, which gives all noise levels losses of one size. ``likelihood``:
            g(t)^2, with the forward SDE's coefficient g of the noise, with which the loss bounds the likelihood
            (arXiv:2101.09258). ``one``: 1. From Python also any function of the schedule and of t (float64).
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
        squares = mean_at((denoised.eps - eps).square(), t)  # sigma^2 times the squared errors of the score
        exact = t.double()
        return mean_of_frames(squares * (self.weight(schedule, exact) / schedule(exact)[1] ** 2).to(squares))


class SSM(Objective):
    r"""The loss of sliced score matching, :math:`\lambda(t) (v^T \nabla s(x_t) v + \frac12 \lVert s \rVert^2)`.

    Here s is the score that the denoiser estimates. The loss is the variance-reduced form of Song et al. 2019
    (arXiv:1905.07088, eq. 8), with random signs v, averaged over the numbers of a sample. It uses the noisy samples but
    not the noise that was added; its mean differs from that of half of :class:`DSM` by a constant. The gradient goes
    through the network twice, so attention is computed by its definition: fused kernels have no second derivative.

    Args:
        weight: lambda(t), as of :class:`DSM`.
    """

    requires = frozenset({"independent_noise"})
    second_derivatives = True

    def __init__(self, weight: Literal["sigma2", "likelihood", "one"] | Lambda = "sigma2") -> None:
        self.weight = _lambda(weight)
        if self.weight is _likelihood:
            self.requires = frozenset({"rate", "independent_noise"})

    def losses(
        self, denoiser: Denoiser, x_0: Tensor, cond: Condition | None, t: Tensor, eps: Tensor, noise: Noise | None
    ) -> Tensor:
        schedule, keep = denoiser.schedule, torch.is_grad_enabled()
        alpha, sigma = denoiser.levels(x_0, t)
        noise = _noise_keyed_by(eps) if noise is None else noise
        v = (noise.uniform(*x_0.shape[1:], stream=Stream.SIGNS) < 0.5).to(x_0) * 2 - 1
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            x_t = (alpha * x_0 + sigma * eps).detach().requires_grad_()
            score = -denoiser(x_t, t, cond).eps / sigma
            (product,) = torch.autograd.grad((score * v).sum(), x_t, create_graph=keep)
        losses = mean_at(product * v + 0.5 * score**2, t)
        losses = mean_of_frames(losses * self.weight(schedule, t.double()).to(losses))
        return losses if keep else losses.detach()


def _noise_keyed_by(eps: Tensor) -> Noise:
    """Return noise for samples of which only eps is known: the keys are made of its first and its last number."""
    first, last = (
        (eps.flatten(1)[:, [0, -1]].abs().double() * 2**20).long().unbind(1)
    )  # normal numbers are at most 6.8 in size: 23 bits
    return Noise(0, first << 23 | last)


def sums_by_quarter(values: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums and counts of values in the quarters (0, 1/4], ..., (3/4, 1] of t, (4,) each, without a device sync.

    The value at t = 0 counts in the first quarter.

    Args:
        values: (B,).
        t: the time of each value, (B,).
    """
    quarter = (torch.ceil(t * 4) - 1).clamp(0, 3).long()
    zeros = torch.zeros(4, dtype=values.dtype, device=values.device)
    return zeros.index_add(0, quarter, values), zeros.index_add(0, quarter, torch.ones_like(values))
