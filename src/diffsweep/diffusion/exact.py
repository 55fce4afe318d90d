r"""Denoisers in closed form, for data of a known distribution: samplers, objectives and bounds are tested against them.

For data :math:`x_0 \sim N(\mu, C)`,
:math:`x_t = \alpha x_0 + \sigma \epsilon \sim N(\alpha \mu, \alpha^2 C + \sigma^2 I)` and

.. math:: E[x_0 | x_t] = \mu + \alpha C (\alpha^2 C + \sigma^2 I)^{-1} (x_t - \alpha \mu).

For a mixture of Gaussians the posterior means of the components are weighted by their posterior probabilities. Where
frames of clips share noise of covariance :math:`\Sigma`, it takes the place of I, and the computation is done in
coordinates in which the noise is white.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffsweep.diffusion.clip_noise import INDEPENDENT, ClipNoise
from diffsweep.diffusion.condition import Condition
from diffsweep.diffusion.denoiser import Denoised, Denoiser
from diffsweep.diffusion.noise import Noise, Stream
from diffsweep.diffusion.prediction import Prediction
from diffsweep.diffusion.process import expand_to
from diffsweep.schedules import Schedule


class GaussianMixtureDenoiser(Denoiser):
    """The exact denoiser of data from a mixture of K Gaussians in D dimensions.

    Args:
        schedule: the noise schedule.
        means: the means of the components, (K, D).
        covariances: their covariances, (K, D, D), positive semi-definite.
        weights: the probabilities of the components, (K,), positive, normalised here; equal by default.
        prediction: the quantity that :meth:`output` returns, and the variance of ancestral steps; eps by default.
        classes: the class y of each component, int64, (K,). With it ``cond.vector`` gives the class of each row, from
            whose components x_0 is; without it conditions are ignored.
        noise: the covariance over frames of the noise, where samples are clips.
        shape: (C, F, H, W) of these clips, whose numbers in this order are the D dimensions.
    """

    def __init__(
        self,
        schedule: Schedule,
        means: Tensor,
        covariances: Tensor,
        weights: Tensor | None = None,
        prediction: Prediction | None = None,
        classes: Tensor | None = None,
        noise: ClipNoise = INDEPENDENT,
        shape: Sequence[int] = (),
    ) -> None:
        super().__init__(schedule, prediction, noise)
        self.classes = classes
        weights = torch.ones(len(means)) if weights is None else weights
        # x = whitened @ root, where row i of root is the image of the i-th unit vector
        self.root = of_clips(noise, shape).to(means) if noise.correlated else None
        means = self._whitened(means)
        if self.root is not None:
            covariances = torch.stack([self._whitened(self._whitened(each).mT) for each in covariances])
        self.means, self.weights = means, (weights / weights.sum()).to(means)
        self.variances, self.rotations = torch.linalg.eigh(covariances)  # (K, D), (K, D, D): C = Q diag(v) Q^T

    def _whitened(self, x: Tensor) -> Tensor:
        """Return x (B, D) in coordinates in which the noise is white."""
        return x if self.root is None else torch.linalg.solve(self.root, x, left=False)

    def _coloured(self, x: Tensor) -> Tensor:
        """Return x (B, D) in the original coordinates, the inverse of :meth:`_whitened`."""
        return x if self.root is None else x @ self.root

    def _components(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the noise level, and x (B, D) under each component of the marginal at t.

        Args:
            x: samples x_t in coordinates in which the noise is white.
            t: their times, () or (B,).
            cond: with the class of each sample, if any.

        Returns:
            alpha and sigma; x centred, in the component's principal axes, and divided by the marginal variances,
                (B, K, D); and the log-density of x jointly with each component, (B, K).
        """
        alpha, sigma = (expand_to(value, x) for value in self.schedule(t.to(x.dtype)))
        centred = torch.einsum("bkd,kde->bke", x[:, None] - alpha[..., None] * self.means, self.rotations)
        marginal = alpha[..., None] ** 2 * self.variances + sigma[..., None] ** 2  # () or (B, 1, 1) against (K, D)
        log_normal = -0.5 * (centred**2 / marginal + (2 * math.pi * marginal).log()).sum(-1)  # (B, K)
        return alpha, sigma, centred / marginal, self._log_weights(cond) + log_normal

    def _log_weights(self, cond: Condition | None) -> Tensor:
        """Return the log-probabilities of the components, (K,); or (B, K), given the class of each row."""
        if self.classes is None or cond is None or cond.vector is None:
            return self.weights.log()
        other = self.classes != cond.vector[:, None]  # (B, K)
        if cond.is_null is not None:
            other &= ~cond.is_null[:, None]
        return self.weights.log().masked_fill(other, -torch.inf).log_softmax(-1)

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        if t.ndim > 1:
            raise ValueError(f"the exact denoiser takes one time a sample, () or (B,), not times {tuple(t.shape)}")
        x = self._whitened(x_t.flatten(1).to(self.means))  # (B, D)
        alpha, sigma, whitened, log_joint = self._components(x, t, cond)
        responsibility = log_joint.softmax(-1)
        x0 = self.means + torch.einsum("bke,kde->bkd", alpha[..., None] * self.variances * whitened, self.rotations)
        eps = torch.einsum("bke,kde->bkd", sigma[..., None] * whitened, self.rotations)
        x0, eps = (self._coloured(torch.einsum("bk,bkd->bd", responsibility, part)) for part in (x0, eps))
        return Denoised(
            x0.to(x_t).reshape(x_t.shape), eps.to(x_t).reshape(x_t.shape), self.prediction.variance_mix or 0.0
        )

    def log_density(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        """Return the log-density of noisy samples x_t (B, ...) at times t, in nats, (B,).

        If ``cond`` has the class of each row, the density is conditioned on it.
        """
        x = self._whitened(x_t.flatten(1).to(self.means))
        log_density = self._components(x, t, cond)[-1].logsumexp(-1)
        return log_density if self.root is None else log_density - torch.linalg.slogdet(self.root).logabsdet

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return log p(y | x_t) of each class y, (B, max(classes) + 1): the output of a perfect noisy classifier.

        The denoiser must have been built with ``classes``.
        """
        assert self.classes is not None
        log_joint = self._components(self._whitened(x_t.flatten(1).to(self.means)), t)[-1]  # (B, K)
        own = self.classes == torch.arange(int(self.classes.max()) + 1)[:, None]  # (classes, K)
        return log_joint[:, None].masked_fill(~own, -torch.inf).logsumexp(-1).log_softmax(-1)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``count`` clean samples from the mixture, (count, D); clips are flat, too."""
        k = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        x = self.means[k] + torch.einsum("bde,be->bd", self.rotations[k], self.variances[k].clamp(min=0).sqrt() * z)
        return self._coloured(x)


def of_clips(noise: ClipNoise, shape: Sequence[int]) -> Tensor:
    """Return the map from independent to correlated noise of clips as a matrix R, float64, (D, D).

    Row i is the image of the i-th unit vector under :meth:`ClipNoise.colour`. So a row z of independent noise becomes z
    R, and :math:`R^T R` is the covariance of the noise.

    Args:
        noise: the covariance of noise over frames.
        shape: (C, F, H, W) of clips, of D numbers.
    """
    size = math.prod(shape)
    return noise.colour(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).flatten(1)


class GaussianDenoiser(GaussianMixtureDenoiser):
    """The exact denoiser of Gaussian data in D dimensions.

    Args:
        schedule: the noise schedule.
        mean: the mean of the data, (D,).
        covariance: their covariance, (D, D), positive semi-definite.
        prediction: the quantity that :meth:`output` returns, and the variance of ancestral steps; eps by default.
        noise: the covariance over frames of the noise, where samples are clips.
        shape: (C, F, H, W) of these clips, whose numbers in this order are the D dimensions.
    """

    def __init__(
        self,
        schedule: Schedule,
        mean: Tensor,
        covariance: Tensor,
        prediction: Prediction | None = None,
        noise: ClipNoise = INDEPENDENT,
        shape: Sequence[int] = (),
    ) -> None:
        super().__init__(schedule, mean[None], covariance[None], prediction=prediction, noise=noise, shape=shape)


class GaussianSolution(GaussianDenoiser):
    r"""The exact consistency function of Gaussian data: where the sampling ODE from x_t ends, in closed form.

    On each principal axis of the data, with variance v, the solution of the ODE keeps its distance
    from the mean in standard deviations of the marginal distribution:

    .. math:: x_s = \alpha_s \mu + \sqrt{\frac{\alpha_s^2 v + \sigma_s^2}{\alpha_t^2 v + \sigma_t^2}}
        (x_t - \alpha_t \mu).

    The estimate of x_0 is x_s at clean data, and eps is the one that belongs to it. Its arguments are those of
    :class:`GaussianDenoiser`.
    """

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        alpha, sigma = (expand_to(value, x_t) for value in self.schedule(t.to(x_t.dtype)))
        x0 = self.moved(x_t, (alpha, sigma), (torch.ones_like(alpha), torch.zeros_like(sigma)))
        return Denoised(x0, (x_t - alpha * x0) / sigma, self.prediction.variance_mix or 0.0)

    def moved(self, x_t: Tensor, begin: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
        """Return where the ODE leads from x_t, (B, ...).

        Args:
            x_t: samples at the noise level ``begin``.
            begin, end: alpha and sigma at both ends, which broadcast with x_t flattened to (B, D).
        """
        alpha, sigma, alpha_s, sigma_s = (part.reshape(-1, 1).to(self.means) for part in (*begin, *end))
        centred = (self._whitened(x_t.flatten(1).to(self.means)) - alpha * self.means) @ self.rotations[0]
        v = self.variances[0].clamp(min=0)
        moved = centred * ((alpha_s**2 * v + sigma_s**2) / (alpha**2 * v + sigma**2)).sqrt()
        return self._coloured(alpha_s * self.means + moved @ self.rotations[0].mT).to(x_t).reshape(x_t.shape)


class AsPredicted(Denoiser):
    """A denoiser whose estimates are converted to the target of a prediction and back, as a perfect network's are.

    Args:
        denoiser: the exact denoiser.
        prediction: the prediction whose target the network would put out; it converts both ways.
    """

    def __init__(self, denoiser: Denoiser, prediction: Prediction) -> None:
        super().__init__(denoiser.schedule, prediction, denoiser.noise)
        self.denoiser = denoiser

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        alpha, sigma = self.levels(x_t, t)
        exact = self.denoiser(x_t, t, cond)
        output = self.prediction.target(exact.x0, exact.eps, alpha, sigma)
        x0, eps = (convert(output, x_t, alpha, sigma) for convert in (self.prediction.x0, self.prediction.eps))
        return Denoised(x0, eps, self.prediction.variance_mix or 0.0)


class Impulses(Noise):
    """A source of unit impulses in place of noise, which gives the exact moments of a stochastic sampler.

    Sampling with the exact denoiser of Gaussian data is affine in the start and in the draws of noise. The caller first
    draws one sample, which lists the draws in ``draws``. Then it draws a batch of 1 + D (1 + draws) samples. The first
    one and the next D, whose starts differ, get no noise. Each of the others gets a single 1, in a single number of a
    single draw. So the first sample ends at the mean, and the ends of the others, less the mean, are the rows of a
    square root of the covariance.

    Args:
        dimension: D, the numbers of a sample.
        draws: the number of each draw by its stream and the sampler's step, in the order of drawing; an empty
            dictionary at first.
        step: the step of the sampler.
        root: for correlated noise, the rows that take the place of the unit vectors, (D, D).
    """

    at_once = 0  # draws ahead would count as draws

    def __init__(
        self,
        dimension: int,
        draws: dict[tuple[Stream, int], int],
        step: int = 0,
        root: Tensor | None = None,
    ) -> None:
        super().__init__(0, torch.empty(0, dtype=torch.int64), step)
        self.dimension, self.draws, self.root = dimension, draws, root

    def at(self, step: int | Tensor) -> "Impulses":
        return Impulses(self.dimension, self.draws, int(step), self.root)

    def like(self, x: Tensor, stream: Stream = Stream.STEP) -> Tensor:
        z = torch.zeros_like(x.flatten(1))
        draw = self.draws.setdefault((stream, int(self.step)), len(self.draws))
        rows = slice(row := 1 + self.dimension * (1 + draw), row + self.dimension)
        unit = torch.eye(self.dimension, dtype=x.dtype) if self.root is None else self.root.to(x.dtype)
        z[rows] = unit[: max(0, len(x) - row)]
        return z.reshape_as(x)
