r"""Conditioning on an image :math:`c = A x_0`: a degraded copy of the sample, such as one of fewer pixels.

A network of p(x_0 | A x_0) restores images: it enlarges them, colours them or fills a hole. In training A is applied to
the sample; in sampling, to held-out images or to a given one. The network sees c as further channels of its input,
:math:`[x_t, c]`, or as features of the whole image.

With noise conditioning augmentation it sees :math:`\sqrt{1 - s^2} c + s \epsilon` and the level s, so that in sampling
small flaws of c, as of an image that another model drew, can be hidden by a little noise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from diffsweep.conditioning.base import Conditioning
from diffsweep.degradations import Degradation
from diffsweep.diffusion import Condition, Known, Noise, Pasted, PixelMask, Stream

if TYPE_CHECKING:  # it imports Lightning, which takes seconds
    from diffsweep.datasets import Batch, Samples

LEVEL_SCALE = 1000  # sinusoids of levels in [0, 1] have the frequencies of times


class ImageConditioning(Conditioning):
    r"""A conditioning on a degraded copy of the sample, which the network reads as further channels beside x_t.

    So do SR3 (Saharia et al. 2021, arXiv:2104.07636) and Palette (arXiv:2111.05826). The condition's ``image`` has the
    sample's size and C channels, and a further one with the mask where the degradation hides pixels. In training it is
    the degraded training image; samples are drawn for degraded held-out images, in turn, whose degradation is the same
    each time; the request has these images too, as ``clean``, for metrics. In latents the model encodes the image, and
    scales the mask to their grid. The measurement of a linear
    degradation is in the condition too (``known``), so ``guidance=replacement`` and ``reconstruction`` can use it.

    With ``augmentation`` above 0 the network reads :math:`\sqrt{1 - s^2} c + s \epsilon` and s (noise conditioning
    augmentation, Ho et al. 2021, arXiv:2106.15282): s is drawn evenly from [0, ``augmentation``] for each training
    sample, and is ``level`` in sampling. The mask gets no noise.

    Args:
        degradation: how images are degraded.
        channels: C of the data.
        image_size: the side of the data's images, in pixels.
        space_channels: channels of the image in the space of diffusion; None for C, which it has in pixels.
        augmentation: the largest s in training, in [0, 1]; 0 for none, and no input for it.
        level: s in sampling, in [0, ``augmentation``].
        paste: whether known pixels of masked images are pasted into the samples after sampling.
        seam: the number of known pixels from the edge of the mask on over which they are blended with those of the
            sample, at least 0.
        dropout: the probability that a training sample has the null condition, an image of zeros.

    Raises:
        ValueError: images that cannot be so degraded, or a number out of its range; in ``request``, no held-out data.
    """

    requires_pixels = True
    entries = ("image", "level", "known", "pasted", "clean")  # of its requests

    def __init__(
        self,
        degradation: Degradation,
        channels: int,
        image_size: int,
        space_channels: int | None = None,
        augmentation: float = 0.0,
        level: float = 0.0,
        paste: bool = True,
        seam: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dropout)
        degradation.check(channels, image_size)
        if not 0 <= augmentation <= 1:
            raise ValueError(f"conditioning.augmentation must lie in [0, 1], not {augmentation}")
        if not 0 <= level <= augmentation:
            raise ValueError(
                f"conditioning.level={level:g} must lie between 0 and conditioning.augmentation={augmentation:g}, the "
                "largest level that the network learns"
            )
        if seam < 0:
            raise ValueError(f"conditioning.seam must be at least 0 pixels, not {seam}")
        self.degradation, self.channels, self.paste, self.seam = degradation, channels, paste, seam
        self.augmentation, self.level = augmentation, level
        read = (channels if space_channels is None else space_channels) + degradation.extra_channels
        self.sizes = {"image_channels": read, **({"num_scalars": 1} if augmentation > 0 else {})}

    @property
    def side_multiple(self) -> int:
        """What must divide the height and width of the images."""
        return self.degradation.side_multiple

    def prepared(self, batch: Batch, noise: Noise | None = None) -> Batch:
        """Return a batch with its degraded ``image``, and with augmentation their ``level``.

        A batch with an ``image`` has it already. Held-out samples are degraded by noise that follows from their
        ``index``, so that validations compare.

        Args:
            batch: images ``x``, (B, C, H, W).
            noise: the random numbers of the training samples; None for others.
        """
        if "image" in batch:
            return batch
        if noise is None and "index" in batch:
            noise = Noise(0, batch["index"])
        image, level = self.degradation.image(batch["x"], noise), None
        if self.augmentation > 0:
            if noise is None:
                raise ValueError("conditioning.augmentation draws random numbers: call it with the samples' noise")
            level = self.augmentation * noise.uniform(stream=Stream.LEVEL).to(image)
        return {**batch, **self._noisy(image, level, noise)}

    def _noisy(self, image: Tensor, level: Tensor | None, noise: Noise | None) -> Batch:
        """Return the image of a condition with noise of a level, (B,), on all its channels but the mask's."""
        if level is None:
            return {"image": image}
        assert noise is not None
        clean, mask = image[:, : self.channels], image[:, self.channels :]
        s = level[:, None, None, None]
        noisy = (1 - s**2).sqrt() * clean + s * noise.like(clean, Stream.CONDITION_NOISE)
        return {"image": torch.cat([noisy, mask], 1), "level": level}

    def condition(self, batch: Batch) -> Condition:
        scalars = LEVEL_SCALE * batch["level"][:, None] if self.augmentation > 0 else None
        return Condition(image=batch["image"], scalars=scalars, known=batch.get("known"), pasted=batch.get("pasted"))

    def request(self, indices: Tensor, samples: Samples | None) -> Batch:
        if samples is None:
            raise ValueError("samples are drawn for degraded held-out images: give the data, or a condition")
        rows = indices.cpu() % len(samples)
        return self.of(samples[rows]["x"], indices.cpu(), rows)

    def of(self, x: Tensor, indices: Tensor, rows: Tensor | None = None) -> Batch:
        """Return the request for samples that restore degraded copies of given images.

        Args:
            x: the original images, (B, C, H, W), which are in the request as ``clean``.
            indices: the numbers of the samples, int64, (B,), which key the noise of ``level``.
            rows: the numbers of the images, int64, (B,), which key their degradation; None for ``indices``.
        """
        noise = Noise(0, indices if rows is None else rows)
        image, known = self.degradation.image(x, noise), self.degradation.known(x, noise)
        return {**self.given(image, known, indices), "clean": x}

    def given(self, image: Tensor, known: Known | None, indices: Tensor) -> Batch:
        """Return the request for samples whose degraded images are given, such as those that another model drew.

        Args:
            image: the images as ``degradation.image`` returns them, (B, C + ``extra_channels``, H, W).
            known: their measurement and its value, for guidance; None for none.
            indices: the numbers of the samples, int64, (B,), which key the noise of ``level``.
        """
        noise = Noise(0, indices.to(image.device))
        level = image.new_full((len(image),), self.level) if self.augmentation > 0 else None
        request = self._noisy(image, level, noise)
        if known is not None:
            request["known"] = known
            if self.paste and isinstance(known.measurement, PixelMask):
                request["pasted"] = Pasted(known, self.seam)
        return request


class ImageFeatures(ImageConditioning):
    """A conditioning on features of a degraded copy of the sample, by a convolutional encoder that is trained jointly.

    The features are the condition's ``vector``, (B, D), which the backbone adds to the time embedding. With
    ``backbone.time_embedding=scale_shift`` they scale and shift every feature map (FiLM, Perez et al. 2018,
    arXiv:1709.07871).

    Args:
        degradation, channels, image_size, space_channels, augmentation, level, paste, seam, dropout: see
            :class:`ImageConditioning`.
        vector_dim: D, the number of features, at least 1; otherwise a ValueError is raised.
    """

    def __init__(
        self,
        degradation: Degradation,
        channels: int,
        image_size: int,
        vector_dim: int = 128,
        space_channels: int | None = None,
        augmentation: float = 0.0,
        level: float = 0.0,
        paste: bool = True,
        seam: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(degradation, channels, image_size, space_channels, augmentation, level, paste, seam, dropout)
        if vector_dim < 1:
            raise ValueError(f"conditioning.vector_dim must be at least 1, not {vector_dim}")
        self.sizes = {
            **{name: n for name, n in self.sizes.items() if name != "image_channels"},
            "vector_dim": vector_dim,
        }
        self.encoder = nn.Sequential(
            nn.Conv2d(channels + degradation.extra_channels, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(4),  # 4 x 4 cells keep roughly where things are
            nn.Flatten(),
            nn.Linear(64 * 16, vector_dim),
        )

    def condition(self, batch: Batch) -> Condition:
        cond = super().condition(batch)
        return replace(cond, image=None, vector=self.encoder(batch["image"]))  # (B, D)
