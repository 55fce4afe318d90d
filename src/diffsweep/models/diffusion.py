"""The LightningModule of a diffusion model: puts the parts together, trains, validates and samples."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from diffsweep import pictures
from diffsweep.autoencoders import Autoencoder
from diffsweep.conditioning import Conditioning
from diffsweep.datasets import Batch, ImageData, Samples
from diffsweep.diffusion import (
    INDEPENDENT,
    ClipNoise,
    Condition,
    Denoiser,
    NetworkDenoiser,
    Noise,
    Objective,
    Prediction,
    Stream,
    TimeSampling,
    add_noise,
    prior,
    stratified,
)
from diffsweep.models.base import Losses, TimedModel
from diffsweep.samplers import Callback, Sampler
from diffsweep.schedules import Schedule


class DiffusionModel(TimedModel):
    """Diffusion in the space of an autoencoder. A family subclasses it and changes only its own step.

    Args:
        backbone: the network, ``backbone(x, c_noise, cond)``.
        schedule: alpha_t and sigma_t.
        prediction: what the network's output means.
        objective: the training loss.
        time_sampling: which times a batch looks at.
        conditioning: a batch, or a request, to its Condition or None.
        autoencoder: the space; identity for pixels.
        sampler: walks from noise to samples.
        guidance: wraps the denoiser for sampling, told the times of the walk.
        optimizer: parameters to an optimizer.
        lr_scheduler: an optimizer to its learning-rate scheduler, stepped every step.
        seed: keys all randomness.
        val_repeats: draws of (t, eps) for each held-out sample.
        noise: what frames of clips share of the noise.
    """

    provides = frozenset({"samples", "likelihood"})
    next_command = "sample.py run"

    def __init__(
        self,
        backbone: nn.Module,
        schedule: Schedule,
        prediction: Prediction,
        objective: Objective,
        time_sampling: TimeSampling,
        conditioning: Conditioning,
        autoencoder: Autoencoder,
        sampler: Sampler,
        guidance: Callable[..., Denoiser],
        optimizer: Callable[..., torch.optim.Optimizer],
        lr_scheduler: Callable[[torch.optim.Optimizer], Any],
        seed: int = 0,
        val_repeats: int = 4,
        noise: ClipNoise = INDEPENDENT,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, seed, noise)
        self.denoiser = NetworkDenoiser(backbone, schedule, prediction, noise)
        self.objective, self.time_sampling = objective, time_sampling
        self.conditioning = conditioning
        self.autoencoder = autoencoder
        self.sampler, self.guidance = sampler, guidance
        self.val_repeats, self.requires_pixels = val_repeats, conditioning.requires_pixels

    def losses(self, batch: dict[str, Tensor]) -> Losses:
        noise = self.batch_noise(batch["position"])
        x_0 = self.autoencoder.of(batch, noise)
        t, weight = self.time_sampling(self.denoiser.schedule, noise.uniform(stream=Stream.TIME))
        cond, eps = self.conditioning(batch, noise), noise.like(x_0, Stream.EPS)
        losses = self.objective(self.denoiser, x_0, cond, t, eps, noise)
        self.update_time_sampling(self.denoiser.schedule, t, losses)
        return Losses(losses, t, weight)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """The loss at fixed (x, t, eps), stratified over t, and the errors in x0 and eps units, which are comparable
        between predictions. In pixels x0 is clipped to [-1, 1], as samplers do: near pure noise a tiny error in eps
        would else be an unbounded one in x0."""
        num_val, schedule = self.trainer.datamodule.num_val, self.denoiser.schedule  # type: ignore[attr-defined]
        strata = stratified(num_val * self.val_repeats).to(batch["index"].device)
        x_0, cond = self.autoencoder.of(batch), self.conditioning(batch)
        for repeat in range(self.val_repeats):
            index = batch["index"] + repeat * num_val
            noise = Noise(0, index, clips=self.denoiser.noise)  # not of the run's seed: runs share their validation
            eps = noise.like(x_0, Stream.VALIDATION)
            t = schedule.time_at(strata[index].float())
            losses = self.objective(self.denoiser, x_0, cond, t, eps, noise)
            denoised = self.denoiser(add_noise(schedule, x_0, t, eps), t, cond)
            x0 = denoised.x0.clamp(-1, 1) if self.autoencoder.bounded else denoised.x0
            self.validated(losses, t)
            self.log_mean("val/x0_mse", (x0 - x_0).square().flatten(1).mean(1))
            self.log_mean("val/eps_mse", (denoised.eps - eps).square().flatten(1).mean(1))

    @torch.no_grad()
    def sample(
        self,
        indices: Tensor,
        seed: int,
        cond: Condition | None = None,
        sampler: Sampler | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """The samples of given indices, (B, C, H, W) in pixels. Index i under a seed has the same noise in any batch.

        Args:
            indices: int64, (B,).
            seed: keys the noise.
            cond: the condition of each sample; by default what the conditioning asks for without data.
            sampler: another sampler than the model's own.
            callback: see :class:`~diffsweep.samplers.Sampler`; sees the space, not pixels.
        """
        sampler = self.sampler if sampler is None else sampler
        cond = self.request(indices, None)[1] if cond is None else cond
        return self.sample_from(*self.start(indices, seed, sampler=sampler), cond, sampler, callback)

    def request(self, indices: Tensor, samples: Samples | None) -> tuple[Batch, Condition | None]:
        """What is asked of the samples of given indices, (B,), and its condition on the model's device; see
        :meth:`~diffsweep.conditioning.Conditioning.request`."""
        request = self.conditioning.request(indices, samples)
        return request, self.condition_of(request)

    @torch.no_grad()
    def condition_of(self, batch: Batch) -> Condition | None:
        """The condition of a batch, on the model's device."""
        there: Batch = move_data_to_device(batch, self.device)
        return self.conditioning(there)

    def noise_of(self, indices: Tensor, seed: int | Tensor) -> Noise:
        """The noise of the samples of given indices, on the model's device; a seed of all, or of each, (B,)."""
        seed = seed.to(self.device) if isinstance(seed, Tensor) else seed
        return Noise(seed, indices.to(self.device), clips=self.denoiser.noise)

    @torch.no_grad()
    def start(
        self,
        indices: Tensor,
        seed: int | Tensor,
        source: Tensor | None = None,
        sampler: Sampler | None = None,
        num_frames: int | None = None,
    ) -> tuple[Tensor, Noise]:
        """x in the space where a walk starts, and the noise of its steps.

        Args:
            indices: int64, (B,).
            seed: keys the noise; one for all, or one of each, (B,).
            source: images (B, C, H, W) that x is made of, with the noise of ``sampler.start``; None for nothing but that noise.
            sampler: another sampler than the model's own.
            num_frames: of clips, where other than the space's.
        """
        noise, schedule = self.noise_of(indices, seed), self.denoiser.schedule
        shape = self.autoencoder.shape if num_frames is None else self.autoencoder.shape_of(num_frames)
        x = noise.normal(*shape, stream=Stream.PRIOR, dtype=self.float_type)
        t = torch.tensor((self.sampler if sampler is None else sampler).start, dtype=torch.float64)
        if source is None:
            return prior(schedule, x, t), noise
        return add_noise(schedule, self.autoencoder.encode(source.to(x)), t, x), noise

    def guided(self, sampler: Sampler) -> Denoiser:
        """The denoiser under guidance, for the walk of a sampler."""
        return self.guidance(self.denoiser, times=sampler.times(self.denoiser.schedule)).to(self.device)

    @torch.no_grad()
    def sample_from(
        self,
        x: Tensor,
        noise: Noise,
        cond: Condition | None = None,
        sampler: Sampler | None = None,
        callback: Callback | None = None,
        decode: bool = True,
    ) -> Tensor:
        """Return the end of the walk that starts at x in the space, in pixels; without ``decode`` in the space."""
        sampler = self.sampler if sampler is None else sampler
        x_0 = sampler(self.guided(sampler), x.to(self.device), cond, noise, callback)
        return self.autoencoder.decode(x_0) if decode else x_0

    def show(self, count: int, data: ImageData | None, seed: int, steps: int | None) -> tuple[Tensor]:
        """The first samples of a seed, in so many steps; by default the sampler's own."""
        sampler = self.sampler if steps is None else self.sampler.with_steps(steps)
        indices = torch.arange(count)
        _, cond = self.request(indices, None if data is None else data.split("val"))
        return (self.sample(indices, seed, cond, sampler),)

    draw_shown = staticmethod(pictures.grid)

    @torch.no_grad()
    def invert(self, images: Tensor, cond: Condition | None = None) -> Tensor:
        """x in the space whose walk ends near images (B, C, H, W): see :meth:`~diffsweep.samplers.Sampler.invert`."""
        x_0 = self.autoencoder.encode(images.to(self.device, self.float_type))
        return self.sampler.invert(self.guided(self.sampler), x_0, cond)
