"""The vector-quantised autoencoder of latent diffusion, whose decoder reads codes of a codebook.

The encoder maps x to vectors h, each of which is replaced by the nearest of K codes e. With sg for "no gradient",

    loss = reconstruction error + beta |h - sg[e]|^2 (+ |sg[h] - e|^2, unless codes are moving averages)

(van den Oord et al. 2017, arXiv:1711.00937). Diffusion takes place in h, before quantisation.
"""

from typing import Any, Literal

from torch import Tensor

from diffsweep.autoencoders.base import Reconstructed
from diffsweep.autoencoders.codebook import Codebook, EMACodebook, GradientCodebook
from diffsweep.autoencoders.convolutional import ConvolutionalAutoencoder
from diffsweep.diffusion import Noise

CodebookKind = Literal["ema", "gradient"]
_CODEBOOKS: dict[CodebookKind, type[Codebook]] = {"ema": EMACodebook, "gradient": GradientCodebook}


class VQAutoencoder(ConvolutionalAutoencoder):
    r"""A vector-quantised autoencoder (van den Oord et al. 2017, arXiv:1711.00937; arXiv:2112.10752, section 3.1).

    Each vector of the latents h is replaced by the nearest of K codes e, through which gradients pass unchanged
    (straight-through). The terms of the loss are means over the numbers of a latent: ``commitment``,
    :math:`(h - \mathrm{sg}[e])^2`, and with ``codebook=gradient`` also ``codebook``, :math:`(\mathrm{sg}[h] - e)^2`, of
    weight 1. Here sg stops the gradient.

    The space of diffusion is that of the standardised latents before quantisation, as in Rombach et al. 2022;
    :meth:`decode` quantises. Nothing is random: a posterior is the latents themselves.

    Args:
        image_size, in_channels, latent_channels, settings: those of
            :class:`~diffsweep.autoencoders.convolutional.ConvolutionalAutoencoder`.
        num_codes: K.
        codebook: ``ema``: codes are moving averages of the vectors nearest to them; ``gradient``: they are parameters.
        decay: decay of the moving averages, of the codes and of their uses.
        commitment_weight: weight beta of the term ``commitment``.
        revive_below: codes whose use is at most this share of the average are replaced by outputs of the encoder; 0:
            none are, after the first step.

    Raises:
        ValueError: an unknown ``codebook``, a value out of its range, or settings that do not fit.
    """

    num_moments = 1

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        latent_channels: int,
        *,
        num_codes: int = 256,
        codebook: CodebookKind = "ema",
        decay: float = 0.99,
        commitment_weight: float = 0.25,
        revive_below: float = 0.01,
        **settings: Any,
    ) -> None:
        if codebook not in _CODEBOOKS:
            raise ValueError(f"autoencoder.network.codebook is one of {', '.join(_CODEBOOKS)}, not {codebook}")
        if num_codes < 2:
            raise ValueError(f"autoencoder.network.num_codes must be at least 2, not {num_codes}")
        if commitment_weight < 0:
            raise ValueError(f"autoencoder.network.commitment_weight must be at least 0, not {commitment_weight}")
        for key, value in {"decay": decay, "revive_below": revive_below}.items():
            if not 0 <= value < 1:
                raise ValueError(f"autoencoder.network.{key} lies in [0, 1), not {value}")
        super().__init__(image_size, in_channels, latent_channels, **settings)
        self.num_codes = num_codes
        self.codebook = _CODEBOOKS[codebook](num_codes, latent_channels, decay, revive_below)
        self.weights = {**dict.fromkeys(self.codebook.names, 1.0), "commitment": commitment_weight}

    def posterior(self, x: Tensor) -> Tensor:
        return (self.encoder(x) - self.shift) / self.scale

    def draw(self, posterior: Tensor, noise: Noise | None = None) -> Tensor:
        return posterior

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.codebook.quantise(z * self.scale + self.shift)[0])

    def reconstruct(self, x: Tensor, noise: Noise | None = None) -> Reconstructed:
        quantised = self.codebook(self.encoder(x))
        return Reconstructed(self.decoder(quantised.h), quantised.terms, quantised.codes)
