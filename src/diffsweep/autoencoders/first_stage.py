"""The space of a trained autoencoder: latent diffusion."""

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

KeptLatents = Literal["mean", "posterior"]


class HasAutoencoder(Protocol):
    """A trained autoencoder, or a model of one."""

    @property
    def autoencoder(self) -> LearnedAutoencoder:
        """The autoencoder."""


class FirstStage(Autoencoder):
    """The latents of a trained autoencoder (Rombach et al. 2022, arXiv:2112.10752), with mean 0 and standard deviation 1 over the
    training set.

    The autoencoder stays as it is: it is no module of this one, so it is in no checkpoint, optimizer or average of the diffusion
    model, and computes in float32 whatever the precision of training. It is loaded when it is first used, and its encoder and
    decoder are on a device only where each of them is used there: training on latents that are kept needs neither.

    Args:
        channels, image_size: shape (channels, image_size, image_size) of the latents.
        factor: f, the side of an image over that of its latents.
        network: makes the untrained autoencoder: what the trained one has to be like.
        model: gives the trained autoencoder, or a model that has one as its ``autoencoder``; None where it is yet to be trained.
        run: the directory of its run, which ``model`` takes; None: found by its content, or trained first.
        latents: ``mean`` of the posterior, or ``posterior``: training draws from it anew each time.
        cache: whether the latents of the data are computed once and kept in files, so that training touches no encoder.
        cache_dir: a folder of them that was made before; None: found by its content, or made.
        batch_size: images that are encoded or decoded at once.
        tile: side of the tiles that larger latents are decoded in, None for whole ones.
        overlap: of neighbouring tiles, as a share of their side.
        num_frames: F of clips, whose frames are encoded and decoded one by one; None for images.
        levels, bounded: facts of latents: None and False.
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
                "autoencoder.bounded and .levels are facts of pixels; latents are unbounded and continuous"
            )
        if batch_size < 1:
            raise ValueError(f"autoencoder.batch_size must be at least 1, not {batch_size}")
        if tile is not None and tile < 2:
            raise ValueError(f"autoencoder.tile must be at least 2 latents, not {tile}")
        if not 0 <= overlap < 1:
            raise ValueError(f"autoencoder.overlap lies in [0, 1), not {overlap}")
        with torch.device("meta"):  # refuses sizes that do not fit
            untrained = network()
        if untrained.shape != (channels, image_size, image_size) or untrained.factor != factor:
            raise ValueError(
                f"autoencoder.network has latents {untrained.shape} and f = {untrained.factor}, and the autoencoder says "
                f"{(channels, image_size, image_size)} and {factor}; set autoencoder.channels and autoencoder.factor alone"
            )
        self.in_channels, self.factor = untrained.in_channels, factor
        frames = () if num_frames is None else (num_frames,)
        self.shape, self.levels, self.bounded = (channels, *frames, image_size, image_size), levels, bounded
        if isinstance(model, PublicAutoencoder) and model.sizes != (self.in_channels, channels, factor):
            theirs = model.sizes  # known before the weights are read
            raise ValueError(
                f"the weights of autoencoder.model take {theirs[0]} channels to {theirs[1]} with f = {theirs[2]}; use "
                f"autoencoder.channels={theirs[1]} autoencoder.factor={theirs[2]}, and a dataset of {theirs[0]} channels"
            )
        self.latents, self.cache, self.cache_dir = latents, cache, cache_dir
        self.batch_size, self.tile, self.overlap = batch_size, tile, round(overlap * tile) if tile else 0
        self._model = model

    @cached_property  # read when it is first used
    def trained(self) -> LearnedAutoencoder:
        """The autoencoder, on the CPU at first."""
        if self._model is None:
            raise ValueError(
                "autoencoder.model is missing: latent diffusion needs a trained autoencoder, or overrides that train one"
            )
        trained = self._model().autoencoder
        if told := self.differs_from(trained):
            raise ValueError(f"the trained autoencoder does not fit: {told}")
        return trained.to("cpu", torch.float32).eval().requires_grad_(False)

    @property
    def weights_hash(self) -> str:
        """What identifies the autoencoder, its standardisation too."""
        return weights_hash(self.trained)

    def _with(self, half: nn.Module, device: torch.device) -> LearnedAutoencoder:
        """The autoencoder with one half, and all but the other, on a device."""
        trained = self.trained
        if trained.scale.device != device or next(half.parameters()).device != device:
            trained._apply(lambda tensor: tensor.to(device), recurse=False)
            for part in trained.children():
                if part is half or part not in (trained.encoder, trained.decoder):
                    part.to(device)
        return trained

    def release(self) -> None:
        """Leave the device."""
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
        with torch.autocast(z.device.type, enabled=False):
            x = by_frame(lambda z: in_slices(lambda part: self._decode(trained, part), z, self.batch_size), z.float())
        return x.to(z.dtype)  # (B, C, H, W)

    def _decode(self, trained: LearnedAutoencoder, z: Tensor) -> Tensor:
        if self.tile is None or max(z.shape[2:]) <= self.tile:
            return trained.decode(z)
        return decode_in_tiles(trained.decode, z, self.tile, self.overlap, self.factor)
