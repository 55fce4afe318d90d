r"""Autoguidance: guidance by a weaker version of the model itself.

.. math:: \tilde D = D_{weak} + s \, (D_{main} - D_{weak})

D is the estimate of x_0, eps or the score; with s > 1 the guided estimate moves further away from the weaker model's.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, PlainDenoiser, as_denoiser, expand_to
from diffsweep.guidance.base import ExactScore, Guidance


class HasDenoiser(Protocol):
    """The interface of the weaker model that :class:`AutoGuidance` loads: it has a denoiser."""

    @property
    def denoiser(self) -> Denoiser | PlainDenoiser:
        """Return the denoiser of the model, which estimates x_0 and eps from x_t."""


class AutoGuidance(Guidance):
    r"""Guidance away from the estimate of a weaker model (autoguidance, Karras et al. 2024, arXiv:2406.02507).

    The guided estimate is :math:`D_{weak} + s (D_{main} - D_{weak})` for x0, and so for eps and the score, since both
    models are evaluated at the same :math:`x_t = \alpha x_0 + \sigma \epsilon`. The weaker model is smaller, or trained
    for less time, on the same data, condition and schedule; where the main model makes errors it makes the same but
    larger ones. ``variance_mix`` is the main model's.

    Args:
        denoiser: the denoiser of the main model.
        weak: a function without arguments that returns the weaker model; it is called once, at the first use.
        scale: s, the paper's w, or a list with one s for each step; 1 is no guidance, bit for bit.
        options: ``shape``, ``interval`` and ``times`` of :class:`Guidance`.
    """

    requires = frozenset()

    def __init__(
        self,
        denoiser: Denoiser | PlainDenoiser,
        weak: Callable[[], HasDenoiser],
        scale: float | Sequence[float] = 2.0,
        **options: Any,
    ) -> None:
        super().__init__(denoiser, scale, **options)
        self._weak_model = weak

    @cached_property  # read from its run once; as no submodule it is not saved, moved or trained with this module
    def weak(self) -> Denoiser:
        """Return the weaker model's denoiser; the model is loaded at the first use and kept."""
        return as_denoiser(self._weak_model().denoiser)

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        strong, scale = self.denoiser(x_t, t, cond), self.scale_on(x_t, t)
        if isinstance(scale, float) and scale == 1:
            return strong
        weak = self.weak(x_t, t, cond)
        x0, eps = torch.lerp(weak.x0, strong.x0, scale), torch.lerp(weak.eps, strong.eps, scale)  # (B, ...)
        return Denoised(x0, eps, strong.variance_mix)

    def score(self, exact: ExactScore, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor | None:
        strong = self.inner_score(exact, x_t, t, cond)
        if strong is None:
            return None
        sigma, scale = (expand_to(value, x_t) for value in (self.schedule(t)[1], self._scale_of(t)))
        weak = -self.weak(x_t, t, cond).eps / sigma
        return weak + scale * (strong - weak)
