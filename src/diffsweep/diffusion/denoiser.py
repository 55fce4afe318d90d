r"""A denoiser estimates x_0 and eps from :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`, t and a condition.

The best estimates are the posterior means :math:`E[x_0 | x_t]` and :math:`E[\epsilon | x_t]`. With them
:math:`-\epsilon / \sigma_t` is the score :math:`\nabla \log p_t(x_t)` if noise is independent. A network with a
schedule and a prediction is a denoiser (:class:`NetworkDenoiser`); guidance wraps a denoiser and is one; so is the
exact posterior mean of known data (:mod:`diffsweep.diffusion.exact`). Samplers, objectives and likelihoods take any.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from diffsweep.diffusion.clip_noise import INDEPENDENT, ClipNoise
from diffsweep.diffusion.condition import Condition
from diffsweep.diffusion.noise import Noise
from diffsweep.diffusion.path import Move
from diffsweep.diffusion.prediction import Eps, Prediction, Scale
from diffsweep.diffusion.process import Step, expand_to
from diffsweep.phases import NETWORK, phase
from diffsweep.precision import Computed, wide_type
from diffsweep.schedules import Level, Schedule


class Denoised(NamedTuple):
    """The estimates of a denoiser at ``x_t``, which satisfy ``x_t = alpha x0 + sigma eps``.

    Attributes:
        x0: the expected clean sample, like x_t.
        eps: the expected noise, like x_t; the score is ``-eps / sigma`` if noise is independent between frames.
        variance_mix: how to mix two log-variances for a step of the ancestral sampler from t to s < t: 0 takes that of
            x_s given x_t and x_0 (fixed small), 1 that of the forward step from s to t (fixed large). A learned mix is
            a tensor like x_t, with [0, 1] as its range, but not clamped.
    """

    x0: Tensor
    eps: Tensor
    variance_mix: Tensor | float = 0.0


class Denoiser(nn.Module, ABC):
    """A module that estimates x_0 and eps from x_t, with the schedule, prediction and noise that belong to it.

    A subclass defines :meth:`forward`.

    Args:
        schedule: the noise schedule, alpha_t and sigma_t.
        prediction: the quantity that :meth:`output` returns (eps, x_0, v, ...); eps by default.
        noise: the covariance over frames of the noise of clips; independent by default.
    """

    schedule: Schedule
    prediction: Prediction
    noise: ClipNoise

    def __init__(
        self, schedule: Schedule, prediction: Prediction | None = None, noise: ClipNoise = INDEPENDENT
    ) -> None:
        super().__init__()
        self.schedule, self.noise = schedule, noise
        self.prediction = prediction if prediction is not None else Eps()

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        """Return the estimates of x_0 and eps at ``x_t``, each like x_t; each subclass defines it.

        Args:
            x_t: noisy samples, (B, ...).
            t: their times, () or (B,); for clips (B, C, F, H, W) also (B, F), a time for each frame.
            cond: the condition of each sample; None for none.
        """

    def output(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, levels: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Return the estimate of the quantity that the prediction defines, like x_t.

        For eps, x_0 or v it is the denoiser's estimate of it. A training loss compares it with the prediction's target.

        Args:
            x_t: noisy samples, (B, ...).
            t: their times, () or (B,); for clips (B, C, F, H, W) also (B, F).
            cond: the condition of each sample; None for none.
            levels: alpha and sigma at t as :meth:`levels` returns them, if they have been computed.
        """
        alpha, sigma = self.levels(x_t, t) if levels is None else levels
        denoised = self(x_t, t, cond)
        return self.prediction.target(denoised.x0, denoised.eps, alpha, sigma)

    def levels(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at times t, () or (B,) or (B, F), so that they broadcast with x (B, ...)."""
        alpha, sigma = self.schedule(t)
        return expand_to(alpha, x), expand_to(sigma, x)

    def path(self, steps: Sequence[Step[float]], measured: bool = False) -> list[Move]:
        """Return the moves that a sampler makes with this denoiser; by default its steps, each once.

        Guidance that goes back in t to improve a sample (RePaint) overrides it.

        Args:
            steps: the sampler's steps from noise to data.
            measured: whether a measurement of the samples is known, ``cond.known``.
        """
        return [Move(step) for step in steps]

    def corrected(self, x: Tensor, level: Level[float], cond: Condition | None, noise: Noise) -> Tensor:
        """Return x as the sampler goes on with it after a step down in t, like x; by default x itself.

        Args:
            x: samples where the step ends, (B, ...); they may be overwritten.
            level: the noise level where the step ends.
            cond: the condition of each sample.
            noise: the source of noise of this step.
        """
        return x


class PlainDenoiser(Protocol):
    """An interface for a denoiser of one's own: an attribute ``schedule``, and a call that returns estimates."""

    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition | None) -> Denoised:
        """Return the estimates of x_0 and eps at noisy samples ``x_t`` (B, ...) and times t, () or (B,)."""


class _Adapted(Denoiser):
    """A :class:`PlainDenoiser` as a :class:`Denoiser` that predicts eps and has independent noise."""

    def __init__(self, plain: PlainDenoiser) -> None:
        super().__init__(plain.schedule)
        self.plain = plain

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        return self.plain(x_t, t, cond)


def as_denoiser(denoiser: Denoiser | PlainDenoiser) -> Denoiser:
    """Return a denoiser as it is, and any object with ``schedule`` and ``__call__`` wrapped as a :class:`Denoiser`.

    The ``output`` of a wrapped one is its estimate of eps, and its noise is independent between frames.
    """
    return denoiser if isinstance(denoiser, Denoiser) else _Adapted(denoiser)


def at_least_single(x: Tensor) -> torch.dtype:
    """Return the dtype for times: that of x, but float32 at least, since bfloat16 would round the time 999 to 1000."""
    return wide_type(x.dtype)


class NetworkInput(NamedTuple):
    """The arguments of a network for noisy samples x_t, and the noise level that they belong to.

    Attributes:
        x: the scaled samples c_in x_t, like x_t.
        c_noise: the number that the network is given for the time, (B,), or (B, F) where each frame has a time; float32
            at least.
        alpha, sigma: the noise level; they broadcast with x_t.
    """

    x: Tensor
    c_noise: Tensor
    alpha: Scale
    sigma: Scale


def network_input(
    schedule: Schedule,
    prediction: Prediction,
    x_t: Tensor,
    t: Tensor,
    levels: tuple[Tensor, Tensor] | None = None,
) -> NetworkInput:
    """Return the arguments of a network with a schedule and a prediction, at noisy samples and times.

    Where t is one time on the CPU, as in sampling, alpha and sigma of the result are Python numbers, else tensors.

    Args:
        schedule: the noise schedule, alpha_t and sigma_t.
        prediction: the prediction, whose c_in scales x_t and whose c_noise maps t to the network's number for it.
        x_t: noisy samples, (B, ...).
        t: their times, (), (B,) or (B, F).
        levels: alpha and sigma at times (B,) or (B, F), broadcasting with x_t, if they have been computed.
    """
    alpha: Scale
    sigma: Scale
    if t.ndim == 0 and t.device.type == "cpu":  # in sampling: one time for the batch, filled in on the device
        alpha, sigma, number = schedule.cached(
            (prediction.c_noise, t.item()), lambda: _numbers(schedule, prediction, t.double())
        )
        c_noise = torch.full((len(x_t),), number, device=x_t.device, dtype=at_least_single(x_t))
    else:
        alpha, sigma = levels if levels is not None else (expand_to(value, x_t) for value in schedule(t))
        c_noise = prediction.c_noise(schedule, t).to(x_t.device, at_least_single(x_t)).expand(len(x_t), *t.shape[1:])
    c_in = prediction.c_in(alpha, sigma)
    scaled = x_t if isinstance(c_in, float) and c_in == 1 else c_in * x_t
    return NetworkInput(scaled, c_noise, alpha, sigma)


def _numbers(schedule: Schedule, prediction: Prediction, t: Tensor) -> tuple[float, float, float]:
    """Return alpha, sigma and c_noise at one time, as Python numbers."""
    alpha, sigma = schedule(t)
    return alpha.item(), sigma.item(), prediction.c_noise(schedule, t).item()


class NetworkDenoiser(Denoiser, Computed):
    """A denoiser made of a network, a schedule and a prediction.

    The network alone is computed in ``precision``; all before and after it, such as a sampler's state, in x_t's type.

    Args:
        backbone: called as ``backbone(x, c_noise, cond)`` with x (B, C, ...) and c_noise (B,), or (B, F) for clips, in
            float32; its output has ``prediction.heads`` times C channels, of which the second C, if any, are a learned
            variance.
        schedule: the noise schedule.
        prediction: the meaning of the backbone's output (eps, x_0, v, ...), and the scaling of its input.
        noise: the covariance over frames of the noise of clips.
    """

    def __init__(
        self, backbone: nn.Module, schedule: Schedule, prediction: Prediction, noise: ClipNoise = INDEPENDENT
    ) -> None:
        super().__init__(schedule, prediction, noise)
        self.backbone = backbone

    def _call(
        self, x_t: Tensor, t: Tensor, cond: Condition | None, levels: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | float, Scale, Scale]:
        """Return the network's output, the variance mix, and alpha and sigma that broadcast with the output."""
        x, c_noise, alpha, sigma = network_input(self.schedule, self.prediction, x_t, t, levels)
        with phase(NETWORK), self.precision.autocast(x.device):
            output = self.backbone(self.precision.of_input(x), c_noise, cond)
        output = output.to(x_t.dtype)
        mix = self.prediction.variance_mix
        if mix is None:
            sizes = [self.prediction.outputs * x_t.shape[1], x_t.shape[1]]
            output, raw = output.split(sizes, dim=1)  # as in the public code: [-1, 1] is the range, nothing is clamped
            mix = (raw + 1) / 2
        return self.prediction.combined(output, x_t, alpha, sigma), mix, alpha, sigma

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        output, mix, alpha, sigma = self._call(x_t, t, cond)
        x0 = self.prediction.x0(output, x_t, alpha, sigma)
        return Denoised(x0, self.prediction.eps(output, x_t, alpha, sigma), mix)

    def output(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, levels: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        return self._call(x_t, t, cond, levels)[0]

    def with_network(self, network: nn.Module) -> "NetworkDenoiser":
        """Return a denoiser of another network, with all else of this one, such as the hooks that count its calls.

        Args:
            network: called as ``backbone`` is.
        """
        other = copy.copy(self)
        other._modules = {**self._modules, "backbone": network}
        return other

    @property
    def partial(self) -> bool:
        """Whether the next call computes a part of the network, and reuses the rest of an earlier call."""
        return not getattr(self.backbone, "whole", True)
