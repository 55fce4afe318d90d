"""A denoiser of images that are edited beside their sources, with features of the sources injected into the network."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser
from diffsweep.guidance.injections import Injection, active
from diffsweep.layers import Injectable, edited


class _BesideSource(Denoiser):
    """The denoiser that guidance wraps: it evaluates rows of targets in one batch with those of their sources.

    Args:
        denoiser: the denoiser of the network.
        injectable: what can be changed in the network.
        injections: what targets take from their sources.
        cond: the condition of the sources.
    """

    source: Tensor  # noisy sources, (B, ...)
    estimate: Denoised  # of the sources, from the last call

    def __init__(
        self,
        denoiser: Denoiser,
        injectable: Sequence[Injectable],
        injections: Sequence[Injection],
        cond: Condition | None,
    ) -> None:
        super().__init__(denoiser.schedule, denoiser.prediction, denoiser.noise)
        self.denoiser, self.injectable, self.injections, self.cond = denoiser, injectable, injections, cond
        self._joined: tuple[Condition | None, Condition | None] | None = None

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        count, groups = len(self.source), 1 + len(x_t) // len(self.source)
        every = t if t.ndim == 0 else torch.cat([t[:count], t])
        edits = [edit for each in active(self.injections, t) for edit in each.edits(self.injectable, groups)]
        with edited(edits):
            both = self.denoiser(torch.cat([self.source, x_t]), every, self._with_source(cond))
        self.estimate, target = split(both, count)
        return target

    def _with_source(self, cond: Condition | None) -> Condition | None:
        """Return the conditions of sources and targets in one batch; all steps have the same ones, so it is kept."""
        if self._joined is None or self._joined[0] is not cond:
            joined = None if cond is None or self.cond is None else self.cond.cat(cond)
            self._joined = cond, joined
        return self._joined[1]


class Injected(Denoiser):
    """A denoiser of B sources and their B edited versions, the targets, which takes features from source to target.

    The rows of ``x_t`` are the sources, then the targets in the same order. Both are evaluated in one batch of the
    network, at the same times. Each source has its own condition and no guidance, so that DDIM reconstructs an inverted
    image. The targets have the condition that is passed in the call, and guidance, whose rows of the null or negative
    condition take the same features. With equal states and conditions, and without guidance, targets equal sources.

    Args:
        denoiser: the denoiser of a network.
        guidance: wraps a denoiser in guidance, called as ``guidance(denoiser, times=times)``.
        injectable: what can be changed in the network: see :class:`~diffsweep.layers.Injectable`.
        injections: what targets take from their sources; empty for nothing.
        source_cond: the condition of the sources; None for a model without conditions.
        times: the times of the sampler's steps, which some guidances need.

    Raises:
        ValueError: an injection names a block that the network does not have.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        guidance: Callable[..., Denoiser],
        injectable: Sequence[Injectable],
        injections: Sequence[Injection],
        source_cond: Condition | None,
        times: Tensor | None = None,
    ) -> None:
        super().__init__(denoiser.schedule, denoiser.prediction, denoiser.noise)
        for injection in injections:
            injection.chosen(injectable)
        self._beside = _BesideSource(denoiser, injectable, injections, source_cond)
        self.guided = guidance(self._beside, times=times)

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        self._beside.source, target = x_t.chunk(2)
        denoised = self.guided(target, t if t.ndim == 0 else t.chunk(2)[1], cond)
        return joined(self._beside.estimate, denoised)


def split(denoised: Denoised, count: int) -> tuple[Denoised, Denoised]:
    """Return the estimates of the first ``count`` rows, and those of the others."""

    def rows(which: slice) -> Denoised:
        mix = denoised.variance_mix
        return Denoised(denoised.x0[which], denoised.eps[which], mix[which] if isinstance(mix, Tensor) else mix)

    return rows(slice(count)), rows(slice(count, None))


def joined(first: Denoised, second: Denoised) -> Denoised:
    """Return the estimates of two sets of rows as one batch."""
    mix = first.variance_mix
    if isinstance(mix, Tensor) and isinstance(second.variance_mix, Tensor):
        mix = torch.cat([mix, second.variance_mix])
    return Denoised(torch.cat([first.x0, second.x0]), torch.cat([first.eps, second.eps]), mix)
