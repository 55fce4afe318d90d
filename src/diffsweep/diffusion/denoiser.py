r"""A denoiser estimates x_0 and eps from :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`, t and a condition.

The best estimates are the posterior means :math:`E[x_0 | x_t]` and :math:`E[\epsilon | x_t]`. With them
:math:`-\epsilon / \sigma_t` is the score :math:`\nabla \log p_t(x_t)` if noise is independent. A network with a
schedule and a prediction is a denoiser (:class:`NetworkDenoiser`); guidance wraps a denoiser and is one; so is the
exact posterior mean of known data (:mod:`diffsweep.diffusion.exact`). Samplers, objectives and likelihoods take any.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from diffsweep.diffusion.clip_noise import INDEPENDENT, ClipNoise
from diffsweep.diffusion.condition import Condition
from diffsweep.diffusion.prediction import Eps, Prediction, Scale
from diffsweep.diffusion.process import expand_to
from diffsweep.schedules import Schedule


class Denoised(NamedTuple):
    """The estimates of a denoiser at ``x_t``, which satisfy ``x_t = alpha x0 + sigma eps``.

    Attributes:
        x0: the expected clean sample, like x_t.
        eps: the expected noise, like x_t; the score is ``-eps / sigma`` if noise is independent between frames.
        variance_mix: the log-variance of a step of the ancestral sampler from t to s < t, as a place between that of
            x_s given x_t and x_0 (0, fixed small) and that of the forward step from s to t (1, fixed large): 0, 1 or
            a tensor in [0, 1] like x_t.
    """

    x0: Tensor
    eps: Tensor
    variance_mix: Tensor | float = 0.0


class Denoiser(nn.Module, ABC):
    """A module that estimates x_0 and eps from x_t, with the schedule, prediction and noise that belong to it.

    Args:
        schedule: alpha_t and sigma_t.
        prediction: the units of :meth:`output`; eps by default.
        noise: the covariance of noise over the frames of clips; independent by default.
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
        """Return the estimates of x_0 and eps at ``x_t``.

        Args:
            x_t: noisy samples, (B, ...).
            t: their times, () or (B,); for clips (B, C, F, H, W) also (B, F), a time for each frame.
            cond: the condition of each sample; None for none.
        """

    def output(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, levels: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Return the estimate in the units of the prediction, like x_t: what a training loss compares with its target.

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


class PlainDenoiser(Protocol):
    """The interface that a user's own denoiser has to have: a schedule, and a call."""

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

    The wrapped one predicts eps, and its noise is independent between frames.
    """
    return denoiser if isinstance(denoiser, Denoiser) else _Adapted(denoiser)


def _at_least_single(x: Tensor) -> torch.dtype:
    """Return the dtype for times: that of x, but float32 at least, since bfloat16 would round the time 999 to 1000."""
    return torch.promote_types(x.dtype, torch.float32)


class NetworkInput(NamedTuple):
    """The arguments of a network at a noise level.

    Attributes:
        x: c_in x_t, like x_t.
        c_noise: the number that the network is given for the time, (B,), or (B, F) where each frame has a time;
            float32 at least.
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

    Args:
        schedule: alpha_t and sigma_t.
        prediction: c_in and c_noise.
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
        c_noise = torch.full((len(x_t),), number, device=x_t.device, dtype=_at_least_single(x_t))
    else:
        alpha, sigma = levels if levels is not None else (expand_to(value, x_t) for value in schedule(t))
        c_noise = prediction.c_noise(schedule, t).to(x_t.device, _at_least_single(x_t)).expand(len(x_t), *t.shape[1:])
    c_in = prediction.c_in(alpha, sigma)
    scaled = x_t if isinstance(c_in, float) and c_in == 1 else c_in * x_t
    return NetworkInput(scaled, c_noise, alpha, sigma)


def _numbers(schedule: Schedule, prediction: Prediction, t: Tensor) -> tuple[float, float, float]:
    """Return alpha, sigma and c_noise at one time, as Python numbers."""
    alpha, sigma = schedule(t)
    return alpha.item(), sigma.item(), prediction.c_noise(schedule, t).item()


class NetworkDenoiser(Denoiser):
    """A denoiser made of a network, a schedule and a prediction.

    Args:
        backbone: called as ``backbone(x, c_noise, cond)`` with x (B, C, ...) and c_noise (B,), or (B, F) for clips,
            in float32; its output has ``prediction.heads`` times C channels.
        schedule: the noise schedule.
        prediction: what the backbone's output means.
        noise: the covariance of noise over the frames of clips.
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
        output = self.backbone(x, c_noise, cond)
        mix = self.prediction.variance_mix
        if mix is None:
            output, raw = output.chunk(2, dim=1)  # as the public code has it: [-1, 1] is the range, nothing is clamped
            mix = (raw + 1) / 2
        return output, mix, alpha, sigma

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        output, mix, alpha, sigma = self._call(x_t, t, cond)
        x0 = self.prediction.x0(output, x_t, alpha, sigma)
        return Denoised(x0, self.prediction.eps(output, x_t, alpha, sigma), mix)

    def output(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, levels: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        return self._call(x_t, t, cond, levels)[0]


@dataclass
class Evaluations:
    """A count of the evaluations of a denoiser.

    Attributes:
        calls: batched calls.
        rows: samples in all of these calls; classifier-free guidance evaluates two rows for each sample.
    """

    calls: int = 0
    rows: int = 0


@contextmanager
def counting(denoiser: nn.Module) -> Iterator[Evaluations]:
    """Count the evaluations of a module, such as a denoiser or the one within guidance, during a ``with`` block."""
    count = Evaluations()

    def count_call(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        count.calls += 1
        count.rows += len(arguments[0])

    handle = denoiser.register_forward_pre_hook(count_call)
    try:
        yield count
    finally:
        handle.remove()
