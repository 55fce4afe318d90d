r"""Classifier-free guidance: away from the unconditional estimate, towards the conditional one.

.. math:: \tilde D(x_t, t, y) = D(x_t, t, \varnothing) + s \, (D(x_t, t, y) - D(x_t, t, \varnothing))

D is the network's estimate of x_0, eps or the score, under the condition y and under the null condition
:math:`\varnothing`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, PlainDenoiser, expand_to
from diffsweep.guidance.base import ExactScore, Guidance


class ClassifierFreeGuidance(Guidance):
    r"""Guidance from the null condition towards the condition (Ho and Salimans 2022, arXiv:2207.12598).

    .. math:: \nabla \log \tilde p(x_t | y) = s \nabla \log p(x_t | y) - (s - 1) \nabla \log p(x_t)

    A scale s of 1 is the conditional model, bit for bit, and 0 the unconditional one. The paper's w is s - 1. The
    conditional and the unconditional estimate are computed in one batched call; where all samples have one time and s
    is 1 or 0, only one of them is computed. A condition's ``negative``, if any, replaces the null condition. For s
    other than 1, samples of the guided ODE are not samples of the density :math:`p(x_0) p(y | x_0)^s`.

    Thresholding of the guided x0 is an option of the sampler (``sampler.clip=static`` or ``dynamic``).

    Args:
        denoiser: the denoiser of a network that was trained with condition dropout.
        scale: s, or a list with one s for each step.
        rescale: phi of Lin et al. 2023 (arXiv:2305.08891), in [0, 1]; 0 is no rescaling. The guided output, in the
            units of the prediction (eps, v, x_0), is multiplied by phi r + 1 - phi, where r is the ratio of the
            standard deviations of the conditional and the guided output of a sample; the paper uses 0.7. Where only the
            unconditional estimate is computed (s = 0), it is not rescaled.
        options: ``shape``, ``interval`` and ``times`` of :class:`Guidance`.

    Raises:
        ValueError: an option is out of its range; or, in a call, the condition is missing.
    """

    requires = frozenset({"condition", "null_condition"})

    def __init__(
        self,
        denoiser: Denoiser | PlainDenoiser,
        scale: float | Sequence[float] = 2.0,
        rescale: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(denoiser, scale, **options)
        if not 0 <= rescale <= 1:
            raise ValueError(f"guidance.rescale lies in [0, 1], not {rescale}")
        self.rescale = rescale
        self._joined: tuple[Condition, Condition] | None = None
        self._opposed: tuple[Condition, Condition] | None = None

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        if cond is None:
            raise ValueError(
                "classifier-free guidance needs a condition to guide towards; without one use guidance=none"
            )
        scale = self.scale_on(x_t, t)
        if isinstance(scale, float):
            if scale == 1:
                return self.denoiser(x_t, t, cond)
            if scale == 0:
                return self.denoiser(x_t, t, self._opposite(cond))
        both = self.denoiser(torch.cat([x_t, x_t]), t if t.ndim == 0 else torch.cat([t, t]), self._both(cond))
        (x0_c, x0_u), (eps_c, eps_u) = both.x0.chunk(2), both.eps.chunk(2)  # (B, ...) each
        mix = both.variance_mix.chunk(2)[0] if isinstance(both.variance_mix, Tensor) else both.variance_mix
        x0, eps = torch.lerp(x0_u, x0_c, scale), torch.lerp(eps_u, eps_c, scale)
        if self.rescale > 0:
            x0, eps = self._rescaled(x_t, t, (x0, eps), (x0_c, eps_c))
        return Denoised(x0, eps, mix)

    def _both(self, cond: Condition) -> Condition:
        """Return the condition and its opposite (the negative or the null condition) in one batch.

        All steps of a trajectory have the same condition, so the last result is kept. On two cores this saves 0.08 ms a
        step for 64 classes, and 31 ms for 64 texts of 77 x 768 numbers.
        """
        if self._joined is None or self._joined[0] is not cond:
            self._joined = cond, cond.cat(cond.opposite())
        return self._joined[1]

    def _opposite(self, cond: Condition) -> Condition:
        """Return the opposite of a condition: the same object in all steps, by which features are known to be of it."""
        if self._opposed is None or self._opposed[0] is not cond:
            self._opposed = cond, cond.opposite()
        return self._opposed[1]

    def _rescaled(
        self, x_t: Tensor, t: Tensor, guided: tuple[Tensor, Tensor], conditional: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        alpha, sigma = (expand_to(value.to(x_t), x_t) for value in self.schedule(t))
        output, wanted = (self.prediction.target(*pair, alpha, sigma) for pair in (guided, conditional))
        ratio = wanted.flatten(1).std(dim=1) / output.flatten(1).std(dim=1)  # (B,)
        output = output * expand_to(self.rescale * ratio + 1 - self.rescale, output)
        return self.prediction.x0(output, x_t, alpha, sigma), self.prediction.eps(output, x_t, alpha, sigma)

    def score(self, exact: ExactScore, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor | None:
        towards = self.inner_score(exact, x_t, t, cond)
        away = self.inner_score(exact, x_t, t, replace(cond.opposite(), negative=None))
        if towards is None or away is None or self.rescale > 0:
            return None
        scale = expand_to(self._scale_of(t), x_t)
        return scale * towards - (scale - 1) * away
