r"""Losses of preferences: which of several samples of one condition is better, or how good each of them is.

A model :math:`\theta` is trained from a frozen reference, and both are compared at the same noisy samples: with the
loss :math:`L(x; t, \epsilon)` of a denoiser at :math:`x_t = \alpha_t x + \sigma_t \epsilon`,

.. math:: r(x) = -\beta \, (L_\theta(x; t, \epsilon) - L_{ref}(x; t, \epsilon))

is the *implicit reward* of a sample x. Its mean over t and eps bounds :math:`\beta' \log p_\theta(x) / p_{ref}(x)`, the
reward that the model is optimal for under a penalty on the divergence from the reference (Wallace et al. 2023,
arXiv:2311.12908, eq. 12 to 14; :math:`\beta` has their T and weight in it, and half the numbers of x, since L is a
mean).

====================== ===========================================================================================
class                  loss of a winner w and a loser l with one t and eps, or of single samples
====================== ===========================================================================================
:class:`DPO`           :math:`-\log \mathrm{sigmoid}(r(w) - r(l))`
:class:`KTO`           :math:`1 - \mathrm{sigmoid}(\pm (r(x) - z))`, + for desirable samples, z the mean of r
:class:`RewardWeighted` :math:`e^{s / \tau} L_\theta(x)`, with the score s of x
:class:`Supervised`    :math:`L_\theta(w)`
====================== ===========================================================================================
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from diffsweep.capabilities import Part


class Compared(NamedTuple):
    """The losses of B rows of K samples of one condition each, and what is known of the samples.

    In a row of two samples, the first one is the winner and the second one the loser.

    Attributes:
        model: the losses of the model that trains, (B, K).
        reference: those of the frozen reference at the same times and noise, (B, K); None if they are not needed.
        score: how good each sample is, (B, K), with mean 0 and standard deviation 1 over all training samples.
        desirable: which samples are better than their fellows, or in rows of one sample than the mean, bool (B, K).
    """

    model: Tensor
    reference: Tensor | None
    score: Tensor
    desirable: Tensor

    def gains(self) -> Tensor:
        """Return by how much the model's loss of each sample is below that of the reference, (B, K)."""
        assert self.reference is not None
        return self.reference - self.model


def implicit_accuracy(compared: Compared) -> Tensor:
    """Return whether the model prefers the winner of each row more than the reference does, (B,): 1, 0, or 1/2.

    It does if its loss has fallen more for the winner than for the loser: if r(w) > r(l), for any beta. It is 1/2 where
    both have fallen alike.

    Args:
        compared: rows of two samples, with the losses of the reference.
    """
    gains = compared.gains()
    return 0.5 + 0.5 * torch.sign(gains[:, 0] - gains[:, 1])


class Preference(Part, ABC):
    """A loss of compared samples, called as ``losses = preference(compared)``; a subclass defines the call.

    Attributes:
        uses_reference: whether the loss needs the losses of the reference.
        requires_pairs: whether rows must have a winner and a loser; otherwise single samples with a score do too.
    """

    provides = frozenset({"preferences"})
    uses_reference = True
    requires_pairs = False

    @abstractmethod
    def __call__(self, compared: Compared) -> Tensor:
        """Return the loss of each row, (B,); each subclass defines it."""


def _positive(key: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"preference.{key} must be above 0, not {value}")
    return value


class DPO(Preference):
    r"""Diffusion-DPO (arXiv:2311.12908, eq. 14): the winner's implicit reward is to be above the loser's.

    The loss of a pair is :math:`-\log \mathrm{sigmoid}(m)` with the margin

    .. math:: m = -\beta \, [(L_\theta(w) - L_{ref}(w)) - (L_\theta(l) - L_{ref}(l))],

    the negative log-likelihood of the preference under the model of Bradley and Terry. It is log 2 where the model is
    the reference. Its gradient is :math:`\beta \, \mathrm{sigmoid}(-m) \, (\nabla L_\theta(w) - \nabla L_\theta(l))`.

    Args:
        beta: how strongly the model is held to the reference: a larger one leaves it nearer. The paper's 2,000 to 5,000
            for images of 4 x 64 x 64 latents are half of that in these units; what counts is beta over the numbers of
            a sample, since L is a mean over them.

    Raises:
        ValueError: ``beta`` is not above 0.
    """

    requires_pairs = True

    def __init__(self, beta: float = 2000.0) -> None:
        self.beta = _positive("beta", beta)

    def __call__(self, compared: Compared) -> Tensor:
        gains = compared.gains()
        return softplus(-self.beta * (gains[:, 0] - gains[:, 1]))  # log(1 + exp(-m))


class KTO(Preference):
    r"""Diffusion-KTO (arXiv:2404.04465): each sample is desirable or not by itself, so that no pairs are needed.

    The loss of a sample is :math:`\lambda_y (1 - \mathrm{sigmoid}(y \, (r(x) - z)))`, with y = 1 for a desirable sample
    and -1 for another. z is the mean of r over the batch, at least 0 and without a gradient, which estimates the
    divergence from the reference. The sigmoid, a utility that saturates on both sides, is that of Kahneman and Tversky.
    A row's loss is the mean over its samples.

    Args:
        beta: how strongly the model is held to the reference, as of :class:`DPO`.
        desirable_weight, undesirable_weight: the weights lambda of desirable and of other samples.

    Raises:
        ValueError: an argument is not above 0.
    """

    def __init__(self, beta: float = 2000.0, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> None:
        self.beta = _positive("beta", beta)
        self.weights = (
            _positive("desirable_weight", desirable_weight),
            _positive("undesirable_weight", undesirable_weight),
        )

    def __call__(self, compared: Compared) -> Tensor:
        reward = self.beta * compared.gains()
        above = reward - reward.mean().clamp(min=0).detach()
        sign = torch.where(compared.desirable, 1.0, -1.0)
        weight = torch.where(compared.desirable, *self.weights)
        return (weight * torch.sigmoid(-sign * above)).mean(1)


class RewardWeighted(Preference):
    r"""The loss weighted by the exponential of the score, :math:`e^{s / \tau} L_\theta(x)`, without a reference.

    Its minimum is the distribution of the samples times :math:`e^{s / \tau}`, the optimum for the score s under a
    penalty of :math:`\tau` on the divergence from that distribution (Peters and Schaal 2007; Lee et al. 2023,
    arXiv:2302.12192). A row's loss is the mean over its samples.

    Args:
        temperature: :math:`\tau`, in standard deviations of the score.
        most: the largest weight; larger ones are cut to it.

    Raises:
        ValueError: an argument is not above 0.
    """

    uses_reference = False

    def __init__(self, temperature: float = 1.0, most: float = 20.0) -> None:
        self.temperature, self.most = _positive("temperature", temperature), _positive("most", most)

    def __call__(self, compared: Compared) -> Tensor:
        return ((compared.score / self.temperature).exp().clamp(max=self.most) * compared.model).mean(1)


class Supervised(Preference):
    r"""The loss of desirable samples alone, :math:`L_\theta(w)`: supervised fine-tuning on the winners.

    It is the baseline of Diffusion-DPO (arXiv:2311.12908, section 5.1). Samples that are not desirable have no loss.
    """

    uses_reference = False

    def __call__(self, compared: Compared) -> Tensor:
        return (compared.model * compared.desirable).sum(1)
