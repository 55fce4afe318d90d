r"""Denoisers in closed form: the truth that samplers, objectives and bounds are tested against.

For data :math:`x_0 \sim N(\mu, C)`, :math:`x_t \sim N(\alpha \mu, \alpha^2 C + \sigma^2 I)` and
:math:`E[x_0 | x_t] = \mu + \alpha C (\alpha^2 C + \sigma^2 I)^{-1} (x_t - \alpha \mu)`; a mixture weighs its components'
posterior means by their responsibilities.
"""

import torch
from torch import Tensor

from diffsweep.diffusion.condition import Condition
from diffsweep.diffusion.denoiser import Denoised, Denoiser
from diffsweep.diffusion.prediction import Prediction
from diffsweep.diffusion.process import expand_to
from diffsweep.schedules import Schedule


class GaussianMixtureDenoiser(Denoiser):
    """The exact denoiser of data from a mixture of Gaussians.

    Args:
        schedule: the noise schedule.
        means: (K, D).
        covariances: (K, D, D), positive semi-definite.
        weights: (K,), positive; normalised here. Equal by default.
        prediction: the units of :meth:`output` and the ancestral variance.
    """

    def __init__(
        self,
        schedule: Schedule,
        means: Tensor,
        covariances: Tensor,
        weights: Tensor | None = None,
        prediction: Prediction | None = None,
    ) -> None:
        super().__init__(schedule, prediction)
        weights = torch.ones(len(means)) if weights is None else weights
        self.means, self.weights = means, (weights / weights.sum()).to(means)
        self.variances, self.rotations = torch.linalg.eigh(covariances)  # (K, D), (K, D, D): C = Q diag(v) Q^T

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        x = x_t.flatten(1).to(self.means)  # (B, D)
        alpha, sigma = (expand_to(value, x) for value in self.schedule(t.to(x.dtype)))
        centred = torch.einsum("bkd,kde->bke", x[:, None] - alpha[..., None] * self.means, self.rotations)
        marginal = alpha[..., None] ** 2 * self.variances + sigma[..., None] ** 2  # () or (B, 1, 1) against (K, D)
        log_joint = self.weights.log() - 0.5 * (centred**2 / marginal + marginal.log()).sum(-1)  # (B, K)
        responsibility = log_joint.softmax(-1)
        whitened = centred / marginal  # (B, K, D)
        x0 = self.means + torch.einsum("bke,kde->bkd", alpha[..., None] * self.variances * whitened, self.rotations)
        eps = torch.einsum("bke,kde->bkd", sigma[..., None] * whitened, self.rotations)
        x0, eps = (torch.einsum("bk,bkd->bd", responsibility, part) for part in (x0, eps))
        return Denoised(
            x0.to(x_t).reshape(x_t.shape), eps.to(x_t).reshape(x_t.shape), self.prediction.variance_mix or 0.0
        )

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws from the data distribution, (count, D)."""
        k = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[k] + torch.einsum("bde,be->bd", self.rotations[k], self.variances[k].clamp(min=0).sqrt() * z)


class GaussianDenoiser(GaussianMixtureDenoiser):
    """The exact denoiser of Gaussian data: mean (D,), covariance (D, D)."""

    def __init__(
        self, schedule: Schedule, mean: Tensor, covariance: Tensor, prediction: Prediction | None = None
    ) -> None:
        super().__init__(schedule, mean[None], covariance[None], prediction=prediction)
