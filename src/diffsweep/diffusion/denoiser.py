"""Denoisers: maps from ``(x_t, t, cond)`` to what is known of x_0 and eps."""

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
    r"""What a denoiser says of ``x_t``; always ``x_t = alpha x0 + sigma eps``.

    Attributes:
        x0: the expected clean sample, like x_t.
        eps: the expected noise, like x_t; the score is ``-eps / sigma`` where noise is independent.
        variance_mix: 0 (fixed small), 1 (fixed large) or a tensor in [0, 1] like x_t: where the log-variance of an
            ancestral step lies between the posterior's and the forward step's.
    """

    x0: Tensor
    eps: Tensor
    variance_mix: Tensor | float = 0.0


class Denoiser(nn.Module, ABC):
    """A denoiser over a schedule, and over the covariance of the noise of clips. Guidance wraps one and is one; so is an exact posterior
    mean."""

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
        """x_t (B, ...), t () or (B,); of clips (B, C, F, H, W) also (B, F), a time of each frame."""

    def output(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, levels: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """The estimate in the units of the prediction, like x_t: what a training loss compares with its target.

        Args:
            x_t, t, cond: those of :meth:`forward`.
            levels: :meth:`levels` of t, where they are known.
        """
        alpha, sigma = self.levels(x_t, t) if levels is None else levels
        denoised = self(x_t, t, cond)
        return self.prediction.target(denoised.x0, denoised.eps, alpha, sigma)

    def levels(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at t, () or (B,) or (B, F), so that they multiply x (B, ...)."""
        alpha, sigma = self.schedule(t)
        return expand_to(alpha, x), expand_to(sigma, x)


class PlainDenoiser(Protocol):
    """All that a denoiser of one's own needs: a schedule, and a call."""

    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition | None) -> Denoised:
        """Return x0 and eps at ``x_t`` (B, ...) and t, () or (B,)."""


class _Adapted(Denoiser):
    """A plain denoiser, with what it does not say filled in: it predicts eps, and its noise is independent."""

    def __init__(self, plain: PlainDenoiser) -> None:
        super().__init__(plain.schedule)
        self.plain = plain

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        return self.plain(x_t, t, cond)


def as_denoiser(denoiser: Denoiser | PlainDenoiser) -> Denoiser:
    """Return the denoiser itself, or a plain object with ``schedule`` and ``__call__`` as one that predicts eps under independent noise."""
    return denoiser if isinstance(denoiser, Denoiser) else _Adapted(denoiser)


def _at_least_single(x: Tensor) -> torch.dtype:
    """bfloat16 would round the time 999 to 1000."""
    return torch.promote_types(x.dtype, torch.float32)


class NetworkInput(NamedTuple):
    """What a network is given at a noise level.

    Attributes:
        x: c_in x_t, like x_t.
        c_noise: the time that it is told, (B,), or with a time of each frame (B, F), in float32 at least.
        alpha, sigma: the level; they broadcast with x_t.
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
    """Return what a network that belongs to a schedule and a prediction is given of ``x_t`` (B, ...) and ``t``, (), (B,) or (B, F).

    Args:
        schedule: alpha_t and sigma_t.
        prediction: c_in and c_noise.
        x_t: noisy samples.
        t: their times.
        levels: alpha and sigma of times (B,) or (B, F), where they are known: they broadcast with x_t.
    """
    alpha: Scale
    sigma: Scale
    if t.ndim == 0 and t.device.type == "cpu":  # a walk: one time for the batch, filled in on the device
        alpha, sigma, told = schedule.cached(
            (prediction.c_noise, t.item()), lambda: _numbers(schedule, prediction, t.double())
        )
        c_noise = torch.full((len(x_t),), told, device=x_t.device, dtype=_at_least_single(x_t))
    else:
        alpha, sigma = levels if levels is not None else (expand_to(value, x_t) for value in schedule(t))
        c_noise = prediction.c_noise(schedule, t).to(x_t.device, _at_least_single(x_t)).expand(len(x_t), *t.shape[1:])
    c_in = prediction.c_in(alpha, sigma)
    scaled = x_t if isinstance(c_in, float) and c_in == 1 else c_in * x_t
    return NetworkInput(scaled, c_noise, alpha, sigma)


def _numbers(schedule: Schedule, prediction: Prediction, t: Tensor) -> tuple[float, float, float]:
    """Return alpha, sigma and c_noise at one time."""
    alpha, sigma = schedule(t)
    return alpha.item(), sigma.item(), prediction.c_noise(schedule, t).item()


class NetworkDenoiser(Denoiser):
    """A network with a schedule and a prediction.

    Args:
        backbone: ``backbone(x, c_noise, cond)``, x (B, C, ...) and c_noise (B,), or (B, F) of clips, in float32; its
            output has ``prediction.heads`` times C channels.
        schedule: the noise schedule.
        prediction: what the backbone's output means.
        noise: what frames of clips share of their noise.
    """

    def __init__(
        self, backbone: nn.Module, schedule: Schedule, prediction: Prediction, noise: ClipNoise = INDEPENDENT
    ) -> None:
        super().__init__(schedule, prediction, noise)
        self.backbone = backbone

    def _call(
        self, x_t: Tensor, t: Tensor, cond: Condition | None, levels: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | float, Scale, Scale]:
        """The output, the variance's mix, and alpha and sigma that broadcast with the output."""
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
    """How often a denoiser was asked.

    Attributes:
        calls: batched calls.
        rows: samples in all of these calls: of a guided walk twice as many.
    """

    calls: int = 0
    rows: int = 0


@contextmanager
def counting(denoiser: nn.Module) -> Iterator[Evaluations]:
    """Counts the evaluations of a denoiser, or of the one within guidance, while it is entered."""
    count = Evaluations()

    def seen(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        count.calls += 1
        count.rows += len(arguments[0])

    handle = denoiser.register_forward_pre_hook(seen)
    try:
        yield count
    finally:
        handle.remove()
