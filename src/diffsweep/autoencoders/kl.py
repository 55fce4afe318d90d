"""The variational autoencoder of latent diffusion, with a small KL penalty (Rombach et al. 2022, arXiv:2112.10752).

The encoder predicts a diagonal Gaussian q(h | x) = N(mu, sigma^2), and the loss has, beside the reconstruction error,
the term

    KL(q(h | x) || N(0, I)) = 1/2 sum (mu^2 + sigma^2 - 1 - log sigma^2)

in nats, summed over the numbers of a latent. Its small weight keeps the scale of the latents bounded without forcing
them to be normal.
"""

from typing import Any

import torch
from torch import Tensor

from diffsweep.autoencoders.base import Reconstructed
from diffsweep.autoencoders.convolutional import ConvolutionalAutoencoder
from diffsweep.diffusion import Noise, Stream

LOG_VARIANCES = (-30.0, 20.0)


class KLAutoencoder(ConvolutionalAutoencoder):
    r"""A variational autoencoder with a small weight of its KL term (Kingma and Welling 2013, arXiv:1312.6114).

    It is that of latent diffusion (Rombach et al. 2022, arXiv:2112.10752, section 3.1). The encoder predicts mean and
    log-variance of q(h | x), a diagonal Gaussian; log-variances are clamped to [-30, 20]. The term ``kl`` of the loss
    is

    .. math:: \mathrm{KL}(q(h|x) \| N(0, I)) = \frac{1}{2} \sum (\mu^2 + \sigma^2 - 1 - \log \sigma^2)

    in nats, summed over the numbers of a latent, and always that of h before standardisation.

    A posterior (B, 2 C, h, w) holds mean and standard deviation of the standardised z = (h - shift) / scale. A
    posterior of C channels holds the mean alone, and ``draw`` returns it, with noise too.

    Args:
        image_size, in_channels, latent_channels, settings: those of
            :class:`~diffsweep.autoencoders.convolutional.ConvolutionalAutoencoder`.
        kl_weight: weight of the term ``kl`` beside a reconstruction error that is summed over the numbers of an image,
            as in the public code. Here this error is a mean over these numbers, so the term is weighted by kl_weight
            over their count.

    Raises:
        ValueError: ``kl_weight`` is negative, or settings do not fit.
    """

    num_moments = 2

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        latent_channels: int,
        *,
        kl_weight: float = 1e-6,
        **settings: Any,
    ) -> None:
        if kl_weight < 0:
            raise ValueError(f"autoencoder.network.kl_weight must be at least 0, not {kl_weight}")
        super().__init__(image_size, in_channels, latent_channels, **settings)
        self.weights = {"kl": kl_weight / (in_channels * image_size**2)}

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(h | x), each (B, C', h, w), before standardisation.

        Args:
            x: images, (B, C, H, W), with H = f h and W = f w.
        """
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCES)

    def posterior(self, x: Tensor) -> Tensor:
        mean, log_variance = self.moments(x)
        return torch.cat([(mean - self.shift) / self.scale, (0.5 * log_variance).exp() / self.scale], dim=1)

    def draw(self, posterior: Tensor, noise: Noise | None = None) -> Tensor:
        channels = self.shape[0]
        mean = posterior[:, :channels]
        if noise is None or posterior.shape[1] == channels:
            return mean
        return mean + posterior[:, channels:] * noise.like(mean, Stream.POSTERIOR)

    def reconstruct(self, x: Tensor, noise: Noise | None = None) -> Reconstructed:
        mean, log_variance = self.moments(x)
        h = mean
        if noise is not None:
            h = mean + (0.5 * log_variance).exp() * noise.like(mean, Stream.POSTERIOR)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)  # (B,)
        return Reconstructed(self.decoder(h), {"kl": kl})
