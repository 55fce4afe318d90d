"""The space of latent diffusion: the standardised latents of a trained, frozen autoencoder (arXiv:2112.10752).

    z = (h - shift) / scale,    h = encoder(x),    x = decoder(shift + scale z)

shift (of each channel) and scale make the latents of the training set have mean 0 and standard deviation 1. Diffusion
takes place in z.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from diffsweep.autoencoders.base import Autoencoder, LearnedAutoencoder, by_frame
from diffsweep.autoencoders.public import PublicAutoencoder
from diffsweep.autoencoders.tiling import decode_in_tiles, in_slices
from diffsweep.diffusion import Noise
from diffsweep.layers import weights_hash
from diffsweep.precision import AS_IS

KeptLatents = Literal["mean", "posterior"]


class HasAutoencoder(Protocol):
    """A model that has a trained autoencoder, or the autoencoder itself."""

    @property
    def autoencoder(self) -> LearnedAutoencoder:
        """The trained autoencoder."""


class FirstStage(Autoencoder):
    """The latents of a trained, frozen autoencoder as the space of diffusion (Rombach et al. 2022, arXiv:2112.10752).

    Over the training set the latents have mean 0 and standard deviation 1.

    The autoencoder is not a submodule, so it is not changed by training and is in no checkpoint, optimizer or weight
    average of the diffusion model. It encodes in float32 whatever the precision of training, and decodes under the
    autocast of ``precision``, but not in float16, whose range published decoders exceed. It is loaded at its first use,
    and its encoder and decoder are moved to a device only when each is used: training on stored latents uses neither.

    Args:
        channels, image_size: the latents of an image are (channels, image_size, image_size), so ``image_size`` is the
            side of the latents and not that of the image.
        factor: f, the side of an image divided by that of its latents.
        network: makes an untrained autoencoder, whose sizes the trained one must have.
        model: gives the trained autoencoder, or a model with one as its ``autoencoder``; None: it is still to be
            trained.
        run: directory of the run that trained the autoencoder, which ``model`` reads; None: the command looks for such
            a run by its configuration, or makes it.
        latents: ``mean``: latents are the mean of the posterior; ``posterior``: training draws them from it anew each
            time.
        cache: compute the latents of the data once and store them in files, so that training does not use the encoder.
        cache_dir: directory of files of latents that were made before; None: the command looks for them by their
            content, or makes them.
        batch_size: images that are encoded or decoded at once.
        tile: side in latents of the tiles in which larger latents are decoded; None: they are decoded as a whole.
        overlap: overlap of neighbouring tiles as a share of their side, in [0, 1).
        num_frames: F of clips, whose frames are encoded and decoded one by one; None: images.
        levels, bounded: must be None and False, since latents are continuous and unbounded.

    Raises:
        ValueError: a setting out of its range, or sizes that differ from those of ``network`` or of the published
            weights.
    """

    def __init__(
        self,
        channels: int,
        image_size: int,
        factor: int,
        network: Callable[[], LearnedAutoencoder],
        model: Callable[[], HasAutoencoder] | None,
        run: str | None = None,
        latents: KeptLatents = "mean",
        cache: bool = True,
        cache_dir: str | None = None,
        batch_size: int = 64,
        tile: int | None = None,
        overlap: float = 0.25,
        num_frames: int | None = None,
        levels: int | None = None,
        bounded: bool = False,
    ) -> None:
        super().__init__()
        if latents not in ("mean", "posterior"):
            raise ValueError(f"autoencoder.latents is mean or posterior, not {latents}")
        if bounded or levels is not None:
            raise ValueError(
                "autoencoder.bounded and autoencoder.levels describe pixels, but latents are unbounded and continuous; "
                "use autoencoder.bounded=false autoencoder.levels=null"
            )
        if batch_size < 1:
            raise ValueError(f"autoencoder.batch_size must be at least 1, not {batch_size}")
        if tile is not None and tile < 2:
            raise ValueError(f"autoencoder.tile must be at least 2 latents, not {tile}")
        if not 0 <= overlap < 1:
            raise ValueError(f"autoencoder.overlap lies in [0, 1), not {overlap}")
        with torch.device("meta"):  # the constructor refuses sizes that do not fit
            untrained = network()
        if untrained.shape != (channels, image_size, image_size) or untrained.factor != factor:
            raise ValueError(
                f"autoencoder.network has latents {untrained.shape} and f = {untrained.factor}, but the autoencoder "
                f"has {(channels, image_size, image_size)} and {factor}; set only autoencoder.channels and "
                "autoencoder.factor"
            )
        self.in_channels, self.factor = untrained.in_channels, factor
        frames = () if num_frames is None else (num_frames,)
        self.shape, self.levels, self.bounded = (channels, *frames, image_size, image_size), levels, bounded
        if isinstance(model, PublicAutoencoder) and model.sizes != (self.in_channels, channels, factor):
            theirs = model.sizes  # known without reading the weights
            raise ValueError(
                f"the weights of autoencoder.model map {theirs[0]} channels to {theirs[1]} with f = {theirs[2]}; use "
                f"autoencoder.channels={theirs[1]} autoencoder.factor={theirs[2]} and a dataset of {theirs[0]} channels"
            )
        self.latents, self.cache, self.cache_dir = latents, cache, cache_dir
        self.batch_size, self.tile, self.overlap = batch_size, tile, round(overlap * tile) if tile else 0
        self._model = model

    @cached_property  # read when it is first used
    def trained(self) -> LearnedAutoencoder:
        """The trained autoencoder, frozen and in float32, which is loaded to the CPU at the first use.

        Raises:
            ValueError: ``model`` is None, or the trained autoencoder has other channels or another factor than this
                space.
        """
        if self._model is None:
            raise ValueError(
                "autoencoder.model is missing: latent diffusion needs a trained autoencoder; give "
                "autoencoder.run=DIR of one, or overrides that train one"
            )
        trained = self._model().autoencoder
        if difference := self.differs_from(trained):
            raise ValueError(f"the trained autoencoder does not fit: {difference}")
        return trained.to("cpu", torch.float32).eval().requires_grad_(False)

    @property
    def weights_hash(self) -> str:
        """The SHA-256 of the weights of the autoencoder, ``shift`` and ``scale`` included, in hexadecimal."""
        return weights_hash(self.trained)

    def _with(self, half: nn.Module, device: torch.device) -> LearnedAutoencoder:
        """Return the autoencoder with one of encoder and decoder, and all but the other one, on a device."""
        trained = self.trained
        if trained.scale.device != device or next(half.parameters()).device != device:
            trained._apply(lambda tensor: tensor.to(device), recurse=False)
            for part in trained.children():
                if part is half or part not in (trained.encoder, trained.decoder):
                    part.to(device)
        return trained

    def release(self) -> None:
        """Move the autoencoder to the CPU, which frees its memory on a GPU; the next use moves what it needs again."""
        self.trained.to("cpu")

    @torch.no_grad()
    def posterior(self, x: Tensor) -> Tensor:
        trained = self._with(self.trained.encoder, x.device)
        with torch.autocast(x.device.type, enabled=False):
            posterior = by_frame(
                lambda x: in_slices(trained.posterior, x, self.batch_size), x.float()
            )  # (B, K, H / f, W / f)
        return (posterior[:, : self.shape[0]] if self.latents == "mean" else posterior).to(x.dtype)

    def draw(self, posterior: Tensor, noise: Noise | None = None) -> Tensor:
        return self.trained.draw(posterior, noise if self.latents == "posterior" else None)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        trained = self._with(self.trained.decoder, z.device)
        mixed = self.precision if self.precision.has_range_of_float32 else AS_IS
        with torch.autocast(z.device.type, enabled=False), mixed.autocast(z.device):
            x = by_frame(lambda z: in_slices(lambda part: self._decode(trained, part), z, self.batch_size), z.float())
        return x.to(z.dtype)  # (B, C, H, W)

    def _decode(self, trained: LearnedAutoencoder, z: Tensor) -> Tensor:
        if self.tile is None or max(z.shape[2:]) <= self.tile:
            return trained.decode(z)
        return decode_in_tiles(trained.decode, z, self.tile, self.overlap, self.factor)
