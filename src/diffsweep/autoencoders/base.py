"""What an autoencoder is: a space for diffusion, and the way there and back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffsweep.capabilities import Part
from diffsweep.diffusion import Noise


def by_frame(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of images (B, C, H, W), and of clips (B, C, F, H, W) frame by frame."""
    if x.ndim == 4:
        return function(x)
    return function(frames_of(x)).unflatten(0, (len(x), x.shape[2])).transpose(1, 2)


def frames_of(x: Tensor) -> Tensor:
    """Images (B, C, H, W) as they are; the frames of clips (B, C, F, H, W), clip by clip, (B F, C, H, W)."""
    return x if x.ndim == 4 else x.transpose(1, 2).flatten(0, 1)


class Autoencoder(nn.Module, Part, ABC):
    """Maps pixels to the space where diffusion happens, and back.

    Attributes:
        shape: of one sample in the space, (C, H, W).
        in_channels: of the pixels.
        factor: f, the side of an image over that of the space.
        bounded: whether the space's values lie in [-1, 1], as pixels do.
        levels: the number of equally spaced values on [-1, 1] that the space's data take, None where continuous.
    """

    shape: tuple[int, ...]
    in_channels: int
    factor: int
    bounded: bool
    levels: int | None

    @property
    def provides(self) -> frozenset[str]:  # type: ignore[override]
        """The range of its values, where they have one; clips, where its points are clips."""
        return frozenset({"range"} if self.bounded else ()) | frozenset({"clips"} if len(self.shape) == 4 else ())

    @abstractmethod
    def posterior(self, x: Tensor) -> Tensor:
        """What pixels x (B, C, H, W) say of the space, (B, C', H', W'): all that :meth:`draw` needs, in one tensor that can be kept."""

    @abstractmethod
    def draw(self, posterior: Tensor, noise: Noise | None = None) -> Tensor:
        """A point of the space (B, *shape): of a distribution its mean, or with the noise of its samples a draw."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """The space (B, *shape) to pixels (B, C, H, W)."""

    def encode(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Pixels (B, C, H, W) to the space (B, *shape)."""
        return self.draw(self.posterior(x), noise)

    def of(self, batch: Mapping[str, Tensor], noise: Noise | None = None) -> Tensor:
        """A batch in the space (B, *shape): drawn of its posteriors, where these were kept, else encoded."""
        return self.draw(batch["posterior"], noise) if "posterior" in batch else self.encode(batch["x"], noise)

    def lengthen(self, num_frames: int) -> None:
        """From now on the space's clips have so many frames.

        Raises:
            ValueError: there are images in it, or no frames are asked for.
        """
        if len(self.shape) != 4 or num_frames < 1:
            what = "clips have at least 1" if len(self.shape) == 4 else "this model makes images"
            raise ValueError(f"num_frames={num_frames}: {what}")
        self.shape = self.shape_of(num_frames)

    def shape_of(self, num_frames: int) -> tuple[int, ...]:
        """The shape of a clip of so many frames in the space."""
        return (self.shape[0], num_frames, *self.shape[2:])

    def differs_from(self, other: "Autoencoder") -> str | None:
        """What another space does not share with this one, in words; None where it fits. The size of images may differ."""
        names = ("autoencoder.channels", "autoencoder.factor", "dataset.channels")
        theirs, ours = ((each.shape[0], each.factor, each.in_channels) for each in (other, self))
        wrong = [values for values in zip(names, theirs, ours, strict=True) if values[1] != values[2]]
        has, asks = (", ".join(f"{values[0]}={values[place]}" for values in wrong) for place in (1, 2))
        return f"it has {has}, and {asks} is asked for" if wrong else None


class Reconstructed(NamedTuple):
    """What a trainable autoencoder makes of images.

    Attributes:
        x: the images again, (B, C, H, W), not clipped.
        terms: of the loss beside the reconstruction, by name, of each sample, (B,), unweighted.
        codes: int64 (B, H', W'), where latents are of a codebook.
    """

    x: Tensor
    terms: dict[str, Tensor]
    codes: Tensor | None = None


class LearnedAutoencoder(Autoencoder):
    """An autoencoder that is trained: its space is that of its latents h, standardised, z = (h - shift) / scale.

    Attributes:
        weights: of the terms of the loss beside the reconstruction, by name.
        num_codes: entries of the codebook, None where there is none.
        encoder: pixels to moments; decoder: h to pixels.
        shift: buffer (C', 1, 1); scale: buffer (); 0 and 1 until :meth:`standardise`.
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
        """Itself, under the name that models of an autoencoder have it by."""
        return self

    @abstractmethod
    def reconstruct(self, x: Tensor, noise: Noise | None = None) -> Reconstructed:
        """Images to latents and back, as in training: with noise from a draw of the posterior, else from its mean."""

    @property
    @abstractmethod
    def last_layer(self) -> Tensor:
        """The weights that put out pixels, which adaptive weights of losses are measured at."""

    @torch.no_grad()
    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """The mean of each channel (C',), and the standard deviation of all, (), of the latents h of the training set."""
        self.shift.copy_(mean[:, None, None])
        self.scale.copy_(std)
