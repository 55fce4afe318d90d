"""The interface of autoencoders: encoding pixels x to points z of the space of diffusion, and decoding them.

Encoding is z = draw(posterior(x)). The posterior is a tensor that can be stored, the parameters of a distribution of z
given x; ``draw`` gives its mean, or a sample of it. The latents h of a trained autoencoder are standardised, z = (h -
shift) / scale.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.capabilities import Part
from diffsweep.diffusion import Condition, Noise
from diffsweep.precision import Computed


def by_frame(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return a function's output for images (B, C, H, W), or for each frame of clips (B, C, F, H, W).

    Args:
        function: maps images (N, C, H, W) to (N, C', H', W').
        x: images or clips.

    Returns:
        (B, C', H', W') for images, (B, C', F, H', W') for clips.
    """
    if x.ndim == 4:
        return function(x)
    return function(frames_of(x)).unflatten(0, (len(x), x.shape[2])).transpose(1, 2)


def frames_of(x: Tensor) -> Tensor:
    """Return images (B, C, H, W) as they are, and the frames of clips (B, C, F, H, W) as images (B F, C, H, W).

    Row b F + f is frame f of clip b.
    """
    return x if x.ndim == 4 else x.transpose(1, 2).flatten(0, 1)


class Autoencoder(nn.Module, Part, Computed, ABC):
    """A map from pixels to the space in which diffusion takes place, and back: pixels themselves, or latents.

    Subclasses define :meth:`posterior`, :meth:`draw` and :meth:`decode`.

    Attributes:
        shape: shape of one sample in the space, (C', H', W'), or (C', F, H', W') for clips.
        in_channels: channels of the pixels.
        factor: f, the side of an image divided by that of its point in the space, H / H' = W / W'.
        bounded: whether the values in the space lie in [-1, 1], as those of pixels do.
        levels: number of equally spaced values on [-1, 1] that the data take in the space; None: they are continuous.
        precision: that of a trained decoder; encoding is in float32, so that latents depend on no run's precision.
    """

    shape: tuple[int, ...]
    in_channels: int
    factor: int
    bounded: bool
    levels: int | None

    @property
    def provides(self) -> frozenset[str]:  # type: ignore[override]
        """The capabilities of the space: ``range`` if its values are bounded, ``clips`` if its points are clips."""
        return frozenset({"range"} if self.bounded else ()) | frozenset({"clips"} if len(self.shape) == 4 else ())

    @abstractmethod
    def posterior(self, x: Tensor) -> Tensor:
        """Return the parameters of the distribution of points z of the space given pixels x, as one tensor.

        Subclasses define what they are; :meth:`draw` requires nothing else. They can be stored in a file of latents in
        place of the pixels.

        Args:
            x: images (B, C, H, W), or clips (B, C, F, H, W) if the space is one of clips.

        Returns:
            (B, K, H', W') or (B, K, F, H', W'), with K parameters at each position.
        """

    @abstractmethod
    def draw(self, posterior: Tensor, noise: Noise | None = None) -> Tensor:
        """Return a point of the space (B, *shape) for each posterior: its mean, or with ``noise`` a sample of it.

        Args:
            posterior: a result of :meth:`posterior`. In spaces without randomness it is the point itself.
            noise: the random numbers of the samples.
        """

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Return the pixels of points z (B, *shape) of the space: images (B, C, H, W), or clips (B, C, F, H, W)."""

    def condition_in_space(self, cond: Condition | None) -> Condition | None:
        """Return a condition whose parts in pixels are in the space: an image is encoded, its mask scaled to the grid.

        The image has C channels of pixels, and further ones with a mask, of which each point of the space gets the mean
        over its pixels. A measurement of pixels is none of the space, so that it is left out; known pixels stay, to be
        pasted into decoded samples.

        Args:
            cond: the condition; None for none.
        """
        if cond is None:
            return None
        if cond.image is None:
            return replace(cond, known=None)
        z = self.encode(cond.image[:, : self.in_channels])
        mask = functional.adaptive_avg_pool2d(cond.image[:, self.in_channels :], (z.shape[-2], z.shape[-1]))
        return replace(cond, image=torch.cat([z, mask], 1), known=None)

    def encode(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the points (B, *shape) of the space for pixels: the mean of the posterior, or with ``noise`` a sample.

        It is ``draw(posterior(x))``, so latents drawn from stored posteriors equal those that are encoded on the fly.

        Args:
            x: images (B, C, H, W), or clips (B, C, F, H, W) if the space is one of clips.
            noise: the random numbers of the samples.
        """
        return self.draw(self.posterior(x), noise)

    def of(self, batch: Mapping[str, Tensor], noise: Noise | None = None) -> Tensor:
        """Return the points (B, *shape) of the space for a batch of data: posterior means, or with ``noise`` samples.

        They are drawn from ``batch["posterior"]`` if the batch holds stored posteriors, and encoded from ``batch["x"]``
        otherwise.
        """
        return self.draw(batch["posterior"], noise) if "posterior" in batch else self.encode(batch["x"], noise)

    def lengthen(self, num_frames: int) -> None:
        """Change ``shape`` to that of clips of ``num_frames`` frames.

        Raises:
            ValueError: the space is one of images, or ``num_frames`` is below 1.
        """
        if len(self.shape) != 4 or num_frames < 1:
            what = "clips have at least 1" if len(self.shape) == 4 else "this model makes images"
            raise ValueError(f"num_frames={num_frames}: {what}")
        self.shape = self.shape_of(num_frames)

    def shape_of(self, num_frames: int) -> tuple[int, ...]:
        """Return the shape of a clip of ``num_frames`` frames in this space of clips, (C', num_frames, H', W')."""
        return (self.shape[0], num_frames, *self.shape[2:])

    def differs_from(self, other: "Autoencoder") -> str | None:
        """Return a sentence on how another space differs from this one, which is requested, or None if it fits.

        Compared are the channels of both sides and the factor; the size of images may differ.
        """
        names = ("autoencoder.channels", "autoencoder.factor", "dataset.channels")
        theirs, ours = ((each.shape[0], each.factor, each.in_channels) for each in (other, self))
        wrong = [values for values in zip(names, theirs, ours, strict=True) if values[1] != values[2]]
        has, requested = (", ".join(f"{values[0]}={values[column]}" for values in wrong) for column in (1, 2))
        return f"it has {has}, but {requested} is requested" if wrong else None


class Reconstructed(NamedTuple):
    """The reconstruction of images by an autoencoder, with the terms of its loss.

    Attributes:
        x: the reconstructed images, (B, C, H, W), not clipped to [-1, 1].
        terms: the terms of the loss beside the reconstruction error by name, such as ``kl``: of each sample, (B,),
            without their weights.
        codes: the indices of the codes, int64 (B, H', W'), if the latents are codes of a codebook, else None.
    """

    x: Tensor
    terms: dict[str, Tensor]
    codes: Tensor | None = None


class LearnedAutoencoder(Autoencoder):
    """An autoencoder that is trained; its space holds the standardised latents z = (h - shift) / scale.

    Each channel has a shift of its own, and all channels share one scale, as in latent diffusion (arXiv:2112.10752).
    Both are buffers, so that a checkpoint holds a space that is ready for diffusion. Subclasses define the networks and
    :meth:`reconstruct`.

    Args:
        channels: C' of the latents.

    Attributes:
        weights: weights of the terms of the loss beside the reconstruction error, by name.
        num_codes: entries of the codebook; None: it has none.
        encoder: the network from pixels to the parameters of the latents h.
        decoder: the network from latents h to pixels.
        shift: buffer (C', 1, 1), 0 until :meth:`standardise` is called.
        scale: buffer (), 1 until :meth:`standardise` is called.
    """

    bounded, levels = False, None
    weights: dict[str, float]
    num_codes: int | None = None
    encoder: nn.Module
    decoder: nn.Module
    shift: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(channels, 1, 1))
        self.register_buffer("scale", torch.ones(()))

    @property
    def autoencoder(self) -> "LearnedAutoencoder":
        """The autoencoder itself, so that it can be used in place of a model that has an ``autoencoder``."""
        return self

    @abstractmethod
    def reconstruct(self, x: Tensor, noise: Noise | None = None) -> Reconstructed:
        """Return the reconstruction of images x (B, C, H, W), as in training; subclasses define it.

        With ``noise`` the latents are drawn from the posterior; otherwise they are its mean. A codebook in training
        mode also learns from x.
        """

    @property
    @abstractmethod
    def last_layer(self) -> Tensor:
        """The weights of the decoder's last layer, as :func:`adaptive_weight` takes them; subclasses define it."""

    @torch.no_grad()
    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Set ``shift`` and ``scale`` so that z = (h - mean) / std.

        Args:
            mean: mean of each channel of the latents h over the training set, (C',).
            std: standard deviation of all channels together, ().
        """
        self.shift.copy_(mean[:, None, None])
        self.scale.copy_(std)
