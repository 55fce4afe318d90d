r"""Cascades: a lower stage draws images of a lower resolution, and a diffusion model enlarges them with details.

With the low-resolution image :math:`z = E(x)` of a sample x, the last stage learns :math:`p(x | z_s, s)` of a noisy

.. math:: z_s = \alpha_s z + \sigma_s \epsilon,

whose time s training draws anew for each sample (noise conditioning augmentation, Ho et al. 2021, arXiv:2106.15282). In
sampling the lower stage draws z, and s is chosen. If the lower stage draws p(z) and this model p(x | z_s, s), the
samples have the distribution p(x) for every s; noise hides the errors of the lower stage from this model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from diffsweep.datasets import Batch
from diffsweep.diffusion import Condition, Denoiser, Noise, Stream, add_noise
from diffsweep.models.borrowed import Borrowed
from diffsweep.models.diffusion import DiffusionModel
from diffsweep.samplers import Sampler

KEPT = ("image", "scalars")  # parts of the condition that rows without a class keep
OTHER_SEED = 0x1E3779B97F4A7C15  # added to a seed, since noise of the lower stage would begin with the same numbers


class LowerStage(Borrowed[DiffusionModel]):
    r"""The lower stage of a cascade: a trained model, and how its samples become the condition of the model above it.

    Training conditions on images of the data in the space of the lower stage. They are blurred by a Gaussian kernel of
    3 x 3 pixels if ``blur`` is given, noised up to a time :math:`s \sim U[0, s_{max}]` under the schedule of the lower
    stage, and enlarged by its decoder. It is encoded to the space of the model above, and the
    network takes 1000 s. The lower stage is no submodule: it is in no
    checkpoint of the cascade, and is loaded from its own run at the first use.

    Args:
        base: returns the trained model: one in the space ``autoencoder=low_res``, in latents, or a cascade itself.
        sampler: the sampler with which it draws.
        channels: C of the images in the space of the model above.
        factor: the factor of the space in which the lower stage is trained, if none is given; the configuration
            reads it.
        augmentation: s in sampling, in [0, ``max_augmentation``].
        max_augmentation: the largest s in training, below 1.
        truncated: whether the lower stage's sampler stops at s, so that its state is :math:`z_s`; otherwise it goes on
            to z, and noise is added.
        blur: the least and the most standard deviation in pixels of the blur, uniform in training; samples are not
            blurred. None: no blur.

    Attributes:
        sizes: the sizes of the parts of the condition that the network takes.

    Raises:
        ValueError: an option is out of its range.
    """

    provides = frozenset({"lower_stage"})

    def __init__(
        self,
        base: Callable[[], DiffusionModel],
        sampler: Sampler,
        channels: int,
        factor: int = 2,
        augmentation: float = 0.1,
        max_augmentation: float = 0.5,
        truncated: bool = False,
        blur: Sequence[float] | None = None,
    ) -> None:
        if not 0 <= max_augmentation < 1:
            raise ValueError(f"cascade.max_augmentation is a time, at least 0 and below 1, not {max_augmentation}")
        if not 0 <= augmentation <= max_augmentation:
            raise ValueError(
                f"cascade.augmentation={augmentation} lies outside the times of training, 0 to "
                f"cascade.max_augmentation={max_augmentation}"
            )
        if truncated and augmentation == 0:
            raise ValueError(
                "cascade.truncated=true stops the lower stage at cascade.augmentation, which must be above 0"
            )
        if blur is not None and (len(blur) != 2 or not 0 < blur[0] <= blur[1]):
            raise ValueError(f"cascade.blur is two widths in pixels, 0 < least <= most, not {list(blur)}")
        super().__init__(base)
        self.sampler, self.factor, self.blur = sampler, factor, blur
        self.augmentation, self.max_augmentation, self.truncated = augmentation, max_augmentation, truncated
        self.sizes: Mapping[str, int] = {"image_channels": channels, "num_scalars": 1}

    def of_data(self, x: Tensor, noise: Noise, training: bool) -> Batch:
        """Return the noisy low-resolution images of data in pixels, ``image`` (B, C, H, W), and ``scalars`` (B, 1).

        Args:
            x: images, (B, C, H, W).
            noise: the random numbers of the samples.
            training: whether s is drawn, and images are blurred; otherwise s is ``augmentation``.
        """
        z = self.on(x.device).autoencoder.encode(x)
        s = torch.full((len(x),), self.augmentation, device=x.device)
        if training:
            s = self.max_augmentation * noise.uniform(stream=Stream.LOWER_TIME).to(x.device)
        if training and self.blur is not None:
            least, most = self.blur
            z = blurred(z, least + (most - least) * noise.uniform(stream=Stream.LOWER_BLUR).to(z))
        return self._noised(z, s, noise)

    def drawn(self, cond: Condition | None, noise: Noise) -> Batch:
        """Return samples of the lower stage as :meth:`of_data` returns images of data, with s = ``augmentation``.

        Args:
            cond: the condition of the lower stage.
            noise: the random numbers of the samples; the lower stage has other ones of the same indices.
        """
        device = noise.indices.device
        base = self.on(device)
        sampler = replace(self.sampler, stop=self.augmentation) if self.truncated else self.sampler
        x, own = base.start(noise.indices, noise.seed + OTHER_SEED, sampler=sampler)
        z = base.sample_from(x, own, cond, sampler, decode=False)
        s = torch.full((len(z),), self.augmentation, device=device)
        return self._enlarged(z, s) if self.truncated else self._noised(z, s, noise)

    def _noised(self, z: Tensor, s: Tensor, noise: Noise) -> Batch:
        return self._enlarged(add_noise(self.base.denoiser.schedule, z, s, noise.like(z, Stream.LOWER_NOISE)), s)

    def _enlarged(self, z_s: Tensor, s: Tensor) -> Batch:
        return {"image": self.base.autoencoder.decode(z_s), "scalars": 1000 * s[:, None]}  # (B, C, H, W), (B, 1)


class CascadeModel(DiffusionModel):
    """A diffusion model conditioned on samples of a lower stage (CDM, arXiv:2106.15282; Imagen, 2205.11487).

    Sampling draws from the lower stage first, for the same request (class or text), so a cascade of any number of
    stages is used as one model. Guidance compares conditions with and without a class or text; both have the image.

    Args:
        parts: the positional arguments of :class:`DiffusionModel`.
        cascade: the lower stage; without one a ValueError is raised.
        settings: the keyword arguments of :class:`DiffusionModel`.
    """

    requires = frozenset({"lower_stage"})
    supports = frozenset({"lower_stage"})

    def __init__(self, *parts: Any, cascade: LowerStage | None, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        if cascade is None:
            raise ValueError("model=cascade has no lower stage; use cascade=noise")
        self.cascade, self.requires_pixels = cascade, True

    @property
    def denoisers(self) -> tuple[Denoiser, ...]:
        return (*self.cascade.base.denoisers, self.denoiser)

    def condition(self, batch: Batch, noise: Noise | None = None) -> Condition | None:
        """Return the conditions of a batch of data with its low-resolution images, or of a request without them.

        For a request, ``lower`` is the condition under which the lower stage draws the images.
        """
        own = self.conditioned(batch, noise) or Condition()
        if "x" not in batch:
            return replace(own, lower=self.cascade.base.condition_of(batch), kept=(*own.kept, *KEPT))
        x = batch["x"]
        counted = Noise(0, batch.get("index", torch.arange(len(x), device=x.device))) if noise is None else noise
        return self._with(own, self.cascade.of_data(x, counted, training=noise is not None))

    def completed(self, cond: Condition | None, noise: Noise) -> Condition:
        own = Condition(kept=KEPT) if cond is None else cond
        if own.image is not None:
            return own
        return replace(self._with(own, self.cascade.drawn(own.lower, noise)), lower=None)

    def _with(self, cond: Condition, given: Batch) -> Condition:
        """Return a condition with an image of the lower stage, encoded to the space of this model, and its time."""
        return replace(
            cond, image=self.autoencoder.encode(given["image"]), scalars=given["scalars"], kept=(*cond.kept, *KEPT)
        )


def blurred(x: Tensor, width: Tensor) -> Tensor:
    r"""Return images convolved with a Gaussian kernel of 3 x 3 pixels, whose edges are mirrored at the border.

    The weights of a pixel and its neighbours along an axis are proportional to 1 and :math:`e^{-1 / (2 w^2)}`.

    Args:
        x: (B, C, H, W).
        width: the standard deviation w of each image's kernel in pixels, (B,).
    """
    side = torch.exp(-0.5 / width.square())
    weights = torch.stack([side, torch.ones_like(side), side], 1) / (1 + 2 * side)[:, None]  # (B, 3)
    kernel = weights[:, :, None] * weights[:, None, :]  # (B, 3, 3)
    padded = functional.pad(x, (1, 1, 1, 1), mode="reflect").transpose(0, 1)  # (C, B, H + 2, W + 2)
    return functional.conv2d(padded, kernel[:, None], groups=len(x)).transpose(0, 1)  # (B, C, H, W)
