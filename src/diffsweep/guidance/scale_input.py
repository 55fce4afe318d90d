r"""Guidance that a network has learned: the scale is an input of the network (Meng et al. 2022, arXiv:2210.03142).

A student that was distilled from a guided teacher estimates in one call what classifier-free guidance of the teacher
estimates in two,

.. math:: \hat x_0(x_t, t, c, w) \approx D(x_t, t, \varnothing) + w (D(x_t, t, c) - D(x_t, t, \varnothing)).
"""

from dataclasses import replace

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, expand_to
from diffsweep.guidance.base import Guidance
from diffsweep.guidance.classifier_free import ClassifierFreeGuidance

PER_UNIT = 10.0  # what the network is given for a scale of 1; its sinusoids have periods from 2 pi on


class ScaleInput(Guidance):
    """A denoiser whose network is given the guidance scale s(t) in ``cond.scalars``; the scale costs no further call.

    Args:
        denoiser: the denoiser of a student whose teacher was guided at scales of a range.
        scale: s, as of classifier-free guidance; a list has one for each step. It should lie in that range.
        options: ``shape``, ``interval`` and ``times`` of :class:`Guidance`.
    """

    supports = frozenset({"guidance_scale"})
    requires = frozenset({"condition", "guidance_scale"})

    _made: tuple[Condition | None, float, torch.Size, Condition] | None = None  # of the last call

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        scale = self.scale_at(t)
        if isinstance(scale, Tensor):
            return self.denoiser(x_t, t, guided_by_input(cond, scale.to(x_t).expand(len(x_t))))
        last = self._made  # steps of one scale have one condition, by which features are known to be of it
        if last is None or last[0] is not cond or last[1:3] != (scale, x_t.shape):
            made = guided_by_input(cond, torch.tensor(scale).to(x_t).expand(len(x_t)))
            last = self._made = cond, scale, x_t.shape, made
        return self.denoiser(x_t, t, last[3])


def guided_by_input(cond: Condition | None, w: Tensor) -> Condition:
    """Return a condition with the guidance scale of each sample, w (B,), for a denoiser that takes it."""
    return replace(cond or Condition(), scalars=PER_UNIT * w[:, None], kept=("scalars",))


class EachScale(ClassifierFreeGuidance):
    """Classifier-free guidance of each sample by a scale of its own, which its condition has, as a student takes it.

    The condition is that of :func:`guided_by_input`, and the network of ``denoiser`` gets it without the scale. Its
    option ``scale`` is not used.
    """

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        assert cond is not None
        assert cond.scalars is not None, "each sample needs a scale"
        w, plain = cond.scalars / PER_UNIT, replace(cond, scalars=None, kept=())  # (B, 1)
        both = self.denoiser(torch.cat([x_t, x_t]), t if t.ndim == 0 else torch.cat([t, t]), self._both(plain))
        (x0_c, x0_u), (eps_c, eps_u) = both.x0.chunk(2), both.eps.chunk(2)  # (B, ...) each
        scale = expand_to(w[:, 0], x_t)
        return Denoised(torch.lerp(x0_u, x0_c, scale), torch.lerp(eps_u, eps_c, scale), 0.0)
