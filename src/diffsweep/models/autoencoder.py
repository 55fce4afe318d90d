r"""The LightningModule that trains an autoencoder, the first stage of latent diffusion.

An encoder E and a decoder D learn to reconstruct images x: with :math:`\hat x = D(E(x))` the loss is

.. math:: \lVert x - \hat x \rVert + w_p d(x, \hat x) + \sum_i w_i L_i + w_a \lambda L_G(\hat x) + L_D(x, \hat x)

a distance of pixels, a perceptual distance d, the terms :math:`L_i` of the latents (KL divergence or codebook) and,
against a discriminator, the adversarial loss :math:`L_G` of the decoder and the loss :math:`L_D` of the discriminator
(arXiv:2012.09841, arXiv:2112.10752).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from diffsweep import pictures
from diffsweep.autoencoders import AdversarialLoss, LearnedAutoencoder, Perceptual, adaptive_weight, by_frame, frames_of
from diffsweep.datasets import Batch, ImageData, RandomShift, joined_rows
from diffsweep.diffusion import Noise
from diffsweep.files import write_text
from diffsweep.layers import distributed, evaluating
from diffsweep.metrics import GenerationMetrics, psnr, ssim
from diffsweep.models.base import Model, SelfMeasured
from diffsweep.models.optimizers import CombinedOptimizer
from diffsweep.phases import NETWORK, phase
from diffsweep.progress import tracked

PixelLoss = Literal["l1", "l2"]
_PIXEL_LOSSES: dict[PixelLoss, Callable[[Tensor], Tensor]] = {"l1": Tensor.abs, "l2": Tensor.square}
NOTHING = "this autoencoder has nothing to learn; use autoencoder=kl or autoencoder=vq"
ROWS = ("original", "reconstruction")  # of a picture
SHOWN = 12  # held-out samples of a picture, at most
MIN_CHANNEL_STD = 0.1  # of the standard deviation of all latents; noise hides a channel with less before the others


class AutoencoderModel(Model, SelfMeasured):
    """A model that trains an autoencoder to reconstruct images, as the first stage of latent diffusion.

    The loss is the mean over images of a pixel distance, the weighted terms of the latents (such as a KL divergence)
    and, if given, a perceptual distance and an adversarial loss against a discriminator of patches (Esser et al. 2021,
    arXiv:2012.09841; Rombach et al. 2022, arXiv:2112.10752). Clips are treated frame by frame.

    Autoencoder and discriminator learn in one backward pass, each with an optimizer of its own: no gradient of the
    autoencoder's loss reaches the discriminator's weights, and none of the discriminator's loss reaches the
    autoencoder. At each validation the latents are standardised to mean 0 of each channel and standard deviation 1 of
    all, by statistics of the training set under the current weights, so every checkpoint holds a space that is ready
    for diffusion.

    Args:
        autoencoder: makes the autoencoder; None, for a space without weights to learn, is refused.
        optimizer: makes the optimizer of a list of parameters.
        lr_scheduler: makes the learning-rate scheduler of an optimizer; it advances after every optimizer step.
        pixel_loss: the distance of pixels: ``l1`` (absolute) or ``l2`` (squared), averaged over the numbers of an
            image.
        perceptual: a perceptual distance of images with its weight; None for none.
        discriminator: the network that learns to distinguish reconstructions from images, with its losses; None for
            none.
        augmentation: a random change of training images, ``augmentation(x, noise)``, such as a shift; None for none.
        statistics: the most training images that the statistics of the latents are taken over.
        seed: the seed of all random numbers of training.

    Raises:
        ValueError: ``autoencoder`` is None, ``pixel_loss`` is unknown, or ``statistics`` is below 2.
    """

    supports = frozenset({"clips", "other_data"})  # it has a network of its own, which takes frames one by one
    provides = frozenset({"samples", "reconstructions", "compared_images"})
    next_command = "train.py model=ldm autoencoder.run"

    def __init__(
        self,
        autoencoder: Callable[[], LearnedAutoencoder] | None,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr_scheduler: Callable[[torch.optim.Optimizer], Any],
        pixel_loss: PixelLoss = "l2",
        perceptual: Perceptual | None = None,
        discriminator: AdversarialLoss | None = None,
        augmentation: RandomShift | None = None,
        statistics: int = 50_000,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, seed)
        if autoencoder is None:
            raise ValueError(NOTHING)
        if pixel_loss not in _PIXEL_LOSSES:
            raise ValueError(f"model.pixel_loss is one of {', '.join(_PIXEL_LOSSES)}, not {pixel_loss}")
        if statistics < 2:
            raise ValueError(f"model.statistics must be at least 2 images, not {statistics}")
        self.autoencoder = autoencoder()
        self.pixel_loss, self.perceptual, self.discriminator = pixel_loss, perceptual, discriminator
        self.augmentation, self.statistics = augmentation, statistics
        self._logged: dict[str, Tensor] = {}

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(_trained(self.autoencoder))
        if self.discriminator is not None:
            against = self.make_optimizer(_trained(self.discriminator), lr=self.discriminator.lr)
            optimizer = CombinedOptimizer([optimizer, against])
        scheduler = self.make_lr_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def distances(self, x: Tensor, noise: Noise | None) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the distances of images from their reconstructions, the parts of the loss, and the reconstructions.

        Args:
            x: images, (B, C, H, W).
            noise: the noise of the samples, for a draw of the posterior; None for its mean.

        Returns:
            The pixel distance plus the weighted perceptual distance, (B,); the parts of the loss by name, without
            weights, each (B,): ``pixel``, the terms of the latents and, if used, ``perceptual``; and the
            reconstructions, (B, C, H, W).
        """
        with phase(NETWORK):
            reconstructed = self.autoencoder.reconstruct(x, noise)
        pixel = _PIXEL_LOSSES[self.pixel_loss](x - reconstructed.x).flatten(1).mean(1)
        parts, loss = {"pixel": pixel, **reconstructed.terms}, pixel
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual(x, reconstructed.x)
            loss = loss + self.perceptual.weight * parts["perceptual"]
        return loss, parts, reconstructed.x

    def weighted(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the sum of the terms of the latents, such as ``kl``, each times its weight, (B,).

        Args:
            parts: the parts of the loss by name, each (B,), as from :meth:`distances`; other parts are not summed.
        """
        terms = [weight * parts[name] for name, weight in self.autoencoder.weights.items() if weight]
        return torch.stack(terms).sum(0) if terms else torch.zeros_like(parts["pixel"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x = frames_of(batch["x"])  # (B, C, H, W); of clips (B F, C, H, W)
        count = len(x) // len(batch["position"])
        position = batch["position"].repeat_interleave(count) * count + torch.arange(count, device=x.device).repeat(
            len(x) // count
        )
        noise = self.batch_noise(position)
        x = x if self.augmentation is None else self.augmentation(x, noise)
        distance, parts, made = self.distances(x, noise)
        losses = distance + self.weighted(parts)
        against = self.discriminator
        if against is not None and self.global_step >= against.start:
            parts["generator"] = against.generator_loss(made)
            parts["discriminator"] = against.discriminator_loss(x, made)
            weight = adaptive_weight(distance.mean(), parts["generator"].mean(), self.autoencoder.last_layer)
            losses = losses + against.weight * weight * parts["generator"] + parts["discriminator"]
        elif against is not None and distributed():  # distributed training needs a gradient of every parameter
            losses = losses + 0 * sum(parameter.sum() for parameter in against.parameters())
        self._logged = {"loss": losses.detach().mean(), **{name: part.detach().mean() for name, part in parts.items()}}
        return losses.mean()

    def training_metrics(self) -> dict[str, Tensor]:
        return {f"train/{name}": value for name, value in self._logged.items()}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss without the discriminator, and its parts, as means over the held-out images under ``val/``.

        Latents are at the mean of the posterior. Logged too is ``val/x_mse``, the squared error of reconstructions that
        are clipped to [-1, 1].
        """
        x = frames_of(batch["x"])
        distance, parts, made = self.distances(x, None)
        for name, values in {"loss": distance + self.weighted(parts), **parts}.items():
            self.log_mean(f"val/{name}", values)
        self.log_mean("val/x_mse", (made.clamp(-1, 1) - x).square().flatten(1).mean(1))

    def on_validation_epoch_end(self) -> None:
        self.autoencoder.standardise(*self.latent_statistics(self.trainer.datamodule)[:2])  # type: ignore[attr-defined]
        super().on_validation_epoch_end()

    @torch.no_grad()
    def latent_statistics(self, data: ImageData) -> tuple[Tensor, Tensor, Tensor]:
        """Return statistics of the latents h of the training set, before they are standardised.

        They are taken over at most ``statistics`` images, evenly spaced in the training set.

        Returns:
            The mean of each channel, (C,); the standard deviation of all latents about these means, (); and the
            standard deviation of each channel, (C,). All float64, on the CPU.
        """
        samples, autoencoder = data.split("train"), self.autoencoder
        rows = torch.linspace(0, len(samples) - 1, min(self.statistics, len(samples))).long()
        sums, count = torch.zeros(2, autoencoder.shape[0], dtype=torch.float64), 0
        for index in rows.split(256):
            z = autoencoder.encode(frames_of(samples[index]["x"]).to(self.device, self.float_type))  # (B, C, H, W)
            h = (z * autoencoder.scale + autoencoder.shift).double()
            sums += torch.stack([h.sum((0, 2, 3)), h.square().sum((0, 2, 3))]).cpu()
            count += z.numel() // z.shape[1]
        mean = sums[0] / count
        variance = (sums[1] / count - mean**2).clamp(min=0)
        return mean, variance.mean().clamp(min=1e-12).sqrt(), variance.sqrt()

    @torch.no_grad()
    def measure(self, data: ImageData, folder: Path, metrics: GenerationMetrics | None = None) -> dict[str, float]:
        """Return how well held-out images are reconstructed, and statistics of the latents over the training set.

        The numbers by name: ``psnr`` (of the mean squared error over all images, in dB) and ``ssim``; the terms of the
        latents without weights, such as ``kl``; with ``metrics`` the distances of features, such as ``rfid``, the FID
        of the reconstructions; with a codebook ``codebook_usage``, the fraction of codes that occur, and
        ``perplexity``, the exponential of the entropy of their frequencies. Then, before they are standardised,
        ``latent_mean``, the largest absolute value of a channel's mean, and ``latent_std``, the standard deviation of
        all latents.

        Writes ``reconstructions.png`` (a ``.gif`` for clips), up to 12 held-out samples and their reconstructions, and
        ``latents.csv``, mean and standard deviation of each channel. Warns of a channel of small standard deviation.

        Args:
            data: the dataset.
            folder: where the picture and the table are written.
            metrics: the metrics of images; None for none.
        """
        samples, autoencoder = data.split("val"), self.autoencoder
        sums: dict[str, float] = {}
        images = 0
        features: list[Batch] = []
        shown: list[Tensor] = []
        counts = torch.zeros(autoencoder.num_codes or 0, dtype=torch.int64)
        with evaluating(self):
            for index in tracked(torch.arange(len(samples)).split(256), "reconstructing", "batch"):
                given = samples[index]["x"]
                x = frames_of(given).to(self.device, self.float_type)
                reconstructed, terms, codes = autoencoder.reconstruct(x)
                made, x = reconstructed.clamp(-1, 1).float(), x.float()
                parts = {"error": (made - x).square().flatten(1).mean(1), "ssim": ssim(made, x), **terms}
                for name, values in parts.items():
                    sums[name] = sums.get(name, 0.0) + float(values.double().sum())
                if codes is not None:
                    counts += torch.bincount(codes.flatten().cpu(), minlength=len(counts))
                again = made if given.ndim == 4 else made.unflatten(0, (len(given), -1)).transpose(1, 2)
                if metrics is not None:
                    features.append(metrics.of_each_reconstruction(again.cpu(), data))
                if not shown:
                    shown = [given[:SHOWN], again[:SHOWN].cpu()]
                images += len(x)
        means = {name: total / images for name, total in sums.items()}
        numbers = {"psnr": psnr(means.pop("error")), **means}
        if metrics is not None:
            numbers |= metrics.of_reconstructions(joined_rows(features), data)
        if autoencoder.num_codes is not None:
            share = counts[counts > 0].double() / counts.sum()
            numbers["codebook_usage"] = len(share) / autoencoder.num_codes
            numbers["perplexity"] = float(torch.exp(-(share * share.log()).sum()))
        numbers |= self._latents(data, folder)
        draw = partial(pictures.rows, names=ROWS, title=f"{len(shown[0])} of {len(samples)} held-out samples")
        pictures.save_shown(draw, shown, folder / "reconstructions")
        return numbers

    def _latents(self, data: ImageData, folder: Path) -> dict[str, float]:
        mean, std, stds = self.latent_statistics(data)
        scaled = (mean - self.autoencoder.shift.flatten().cpu()) / self.autoencoder.scale.cpu()
        rows = [
            f"{channel},{of_mean:.6g},{of_std:.6g},{now:.6g},{of_std / float(self.autoencoder.scale):.6g}"
            for channel, (of_mean, of_std, now) in enumerate(
                zip(mean.tolist(), stds.tolist(), scaled.tolist(), strict=True)
            )
        ]
        head = "channel,mean,std,mean_standardised,std_standardised"
        write_text(folder / "latents.csv", "\n".join([head, *rows]) + "\n")
        for channel, of_std in enumerate((stds / std).tolist()):
            if of_std < MIN_CHANNEL_STD:
                print(
                    f"warning: channel {channel} of the latents is badly scaled: its standard deviation is "
                    f"{of_std:.2g} of that of all, so noise hides it first; use fewer autoencoder.channels, or a "
                    "smaller autoencoder.network.kl_weight"
                )
        return {"latent_mean": float(mean.abs().max()), "latent_std": float(std)}

    @torch.no_grad()
    def show(self, count: int, data: ImageData, seed: int, steps: int | None) -> tuple[Tensor, Tensor]:
        """Return the first ``count`` held-out samples, at most 12, and their reconstructions, to be shown in training.

        ``seed`` and ``steps`` are not used, since nothing is sampled.
        """
        x = data.split("val")[torch.arange(min(count, 12, data.num_val))]["x"]
        return x, by_frame(
            lambda x: self.autoencoder.reconstruct(x).x.float().cpu(), x.to(self.device, self.float_type)
        )

    def drawing(self, count: int, data: ImageData) -> Callable[..., Image.Image]:
        """Return a function that draws the result of :meth:`show` as two rows with names, for any ``count``."""
        return partial(pictures.rows, names=ROWS)


def _trained(part: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in part.parameters() if parameter.requires_grad]
