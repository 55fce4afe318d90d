r"""Classifier guidance: towards a class, by the gradient of a classifier of noisy samples.

.. math:: \nabla \log \tilde p(x_t | y) = \nabla \log p(x_t) + s \, \nabla \log p(y | x_t)

is the guided score. With the score :math:`-\epsilon / \sigma_t` the guided eps is
:math:`\epsilon - s \, \sigma_t \nabla \log p(y | x_t)`.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, PlainDenoiser, expand_to
from diffsweep.guidance.base import ExactScore, Guidance


class TimedClassifier(Protocol):
    """The interface of a classifier of noisy samples x_t, as :class:`ClassifierGuidance` uses it."""

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return log p(y | x_t) of each of K classes y, (B, K), for samples x_t (B, ...) at times t, () or (B,)."""


class ClassifierGuidance(Guidance):
    r"""Guidance towards a class, by a classifier of noisy samples (Dhariwal and Nichol 2021, arXiv:2105.05233).

    .. math:: \nabla \log \tilde p(x_t | y) = \nabla \log p(x_t) + s \nabla \log p(y | x_t)

    that is :math:`\tilde \epsilon = \epsilon - s \sigma_t g` and :math:`\tilde x_0 = x_0 + s (\sigma_t^2 / \alpha_t) g`
    with the gradient g of :math:`\log p(y | x_t)`. This form suits every sampler (algorithm 2 of the paper). Algorithm
    1 shifts the mean of an ancestral step by :math:`s \Sigma g`. In an ancestral step of variance :math:`\beta` this
    class shifts it by :math:`s \beta g / \sqrt{1 - \beta}`, which is the same for :math:`\Sigma = \beta` up to the
    factor :math:`1 / \sqrt{1 - \beta} = 1 + O(\beta)`.

    Where the noise of a clip's frames has a covariance :math:`\Sigma` over frames, :math:`\Sigma g` replaces g.

    The class y of each sample is ``cond.vector``. The network may be conditional or not. Samples under the null
    condition are not guided. With a negative class
    :math:`\bar y`, g is the gradient of :math:`\log p(y | x_t) - \log p(\bar y | x_t)`. Where alpha is 0, x_t holds no
    information about y and the estimates are unchanged.

    Args:
        denoiser: the denoiser to guide.
        classifier: a function without arguments that returns the classifier, of the same data and schedule; it is
            called once, at the first use.
        scale: s, or a list with one s for each step; 0 is no guidance.
        options: ``shape``, ``interval`` and ``times`` of :class:`Guidance`.
    """

    neutral = 0.0
    requires = frozenset({"condition", "num_classes"})

    def __init__(
        self,
        denoiser: Denoiser | PlainDenoiser,
        classifier: Callable[[], TimedClassifier],
        scale: float | Sequence[float] = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(denoiser, scale, **options)
        self._trained_classifier = classifier

    @cached_property  # read from its run once; as no submodule it is not saved, moved or trained with this module
    def classifier(self) -> TimedClassifier:
        """Return the classifier of noisy samples; it is loaded at the first use and kept."""
        return self._trained_classifier()

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        denoised, scale = self.denoiser(x_t, t, cond), self.scale_on(x_t, t)
        if isinstance(scale, float) and scale == 0:
            return denoised
        alpha, sigma = self.levels(x_t, t)
        gradient = self.noise.spread(self.gradient(x_t, t, cond), sigma)  # (B, ...)
        shift = (scale * sigma * (alpha != 0)).to(x_t) * gradient  # (B, ...)
        x0 = denoised.x0 + (sigma / torch.where(alpha == 0, 1, alpha)).to(x_t) * shift
        return Denoised(x0, denoised.eps - shift, denoised.variance_mix)

    def gradient(self, x_t: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        """Return g, the gradient of log p(y | x_t) with respect to x_t, like x_t.

        Rows with a negative class z give the gradient of log p(y | x_t) - log p(z | x_t), rows under the null condition
        give 0. The gradient is computed in float32 or better, whatever precision the network uses.

        Args:
            x_t: noisy samples, (B, ...).
            t: their times, () or (B,).
            cond: the condition of the samples; ``cond.vector`` has the class ids y, int64, (B,).

        Raises:
            ValueError: the condition is missing or has no class ids.
        """
        if cond is None or cond.vector is None or cond.vector.is_floating_point():
            raise ValueError("classifier guidance needs a class to guide towards; use conditioning=class")
        with torch.enable_grad(), torch.autocast(x_t.device.type, enabled=False):
            x = x_t.detach().to(torch.promote_types(x_t.dtype, torch.float32)).requires_grad_()
            log_prob = self.classifier.log_prob(x, t)  # (B, K)
            wanted = log_prob.gather(1, cond.vector[:, None])  # (B, 1)
            if cond.negative is not None and cond.negative.vector is not None:
                wanted = wanted - log_prob.gather(1, cond.negative.vector[:, None])
            if cond.is_null is not None:
                wanted = torch.where(cond.is_null[:, None], 0.0, wanted)
            return torch.autograd.grad(wanted.sum(), x)[0].to(x_t)

    def score(self, exact: ExactScore, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor | None:
        inner = self.inner_score(exact, x_t, t, cond)
        if inner is None:
            return None
        scale = expand_to(self._scale_of(t), x_t)
        # log p(y | x) = log p(x | y) - log p(x) + a constant
        towards = Condition(vector=cond.vector, is_null=cond.is_null)
        return inner + scale * (exact(x_t, t, towards) - exact(x_t, t, cond.negative))
