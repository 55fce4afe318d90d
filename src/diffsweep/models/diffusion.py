r"""The LightningModule of diffusion models: it puts the parts together, trains, validates and samples.

Training minimises, over samples :math:`x_0`, times t and noise :math:`\epsilon`, the expectation of a loss at one noise
level,

.. math:: \mathbb{E}\, w(t) \, L(\hat x_0(x_t, t, c); x_0, \epsilon), \quad x_t = \alpha_t x_0 + \sigma_t \epsilon

for the simple objective with eps prediction :math:`L = \lVert \epsilon - \hat\epsilon(x_t, t, c) \rVert^2`
(arXiv:2006.11239). Sampling starts from :math:`x_1 = \sigma_1 \epsilon`, and a sampler integrates it to t = 0 with the
trained denoiser.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from diffsweep.autoencoders import Autoencoder
from diffsweep.conditioning import Conditioning
from diffsweep.diffusion import (
    INDEPENDENT,
    ClipNoise,
    Denoiser,
    NetworkDenoiser,
    Noise,
    Objective,
    Prediction,
    Stream,
    TimeSampling,
    add_noise,
    stratified,
)
from diffsweep.models.sampled import SampledModel
from diffsweep.models.timed import Losses
from diffsweep.samplers import Sampler
from diffsweep.schedules import Schedule


class DiffusionModel(SampledModel):
    r"""A diffusion model in the space of an autoencoder, made of parts; models of another training step subclass it.

    A training step takes x_0 of a batch in the space (pixels, or latents by the autoencoder), times t with importance
    weights w, noise eps and the conditions c, some of which are dropped (replaced by the null condition). Its loss is
    the mean over the batch of :math:`w \, L(x_t = \alpha_t x_0 + \sigma_t \epsilon, t, c)`, with L the objective.
    Drawing a sample starts from :math:`\sigma_1 \epsilon` in the space, takes the sampler's steps with the guided
    denoiser and decodes the result.

    Args:
        backbone: the network, ``backbone(x, c_noise, cond)``.
        schedule: the noise schedule, alpha_t and sigma_t.
        prediction: what the network predicts, such as eps, x_0 or v.
        objective: the training loss L of each sample at one time.
        time_sampling: how the times of a batch are drawn, with their importance weights.
        conditioning: maps a batch of data to its :class:`~diffsweep.diffusion.Condition` or to None, and makes
            requests, batches that state what samples to be drawn are to show.
        autoencoder: maps pixels to the space of x_0 and back; the identity for diffusion in pixels.
        sampler: integrates from noise at t = 1 to samples at t = 0.
        guidance: wraps the denoiser for sampling; called as ``guidance(denoiser, times=...)`` with the sampler's times.
        optimizer: makes the optimizer of a list of parameters.
        lr_scheduler: makes the learning-rate scheduler of an optimizer; it advances after every optimizer step.
        seed: the seed of all random numbers of training.
        val_repeats: the number of draws of (t, eps) for each held-out sample in a validation.
        noise: the covariance over the frames of a clip of eps; independent frames for images.
    """

    provides = frozenset({"samples", "likelihood"})
    shardable = True
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
        cond, eps = self.condition(batch, noise), noise.like(x_0, Stream.EPS)
        losses = self.objective(self.denoiser, x_0, cond, t, eps, noise)
        self.update_time_sampling(self.denoiser.schedule, t, losses)
        return Losses(losses, t, weight * batch["loss_weight"] if "loss_weight" in batch else weight)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss on held-out samples, ``val/loss``, and mean squared errors of the estimates of x0 and of eps.

        The errors are ``val/x0_mse`` and ``val/eps_mse``; the loss is logged by quarter of t too, ``val/loss_q1`` to
        ``_q4``.

        The times are stratified over [0, 1]. Times and noise are the same in each validation and for each seed of a
        run, so losses compare between runs; the errors compare between predictions too. In pixels x0 is clipped to [-1,
        1], as samplers do: near pure noise a tiny error in eps would otherwise be an unbounded one in x0. At t = 1 of
        the cosine schedule, alpha is 5e-5, and an error of 0.01 in eps is one of 200 in x0.
        """
        num_val, schedule = self.trainer.datamodule.num_val, self.denoiser.schedule  # type: ignore[attr-defined]
        strata = stratified(num_val * self.val_repeats).to(batch["index"].device)
        x_0, cond = self.autoencoder.of(batch), self.condition(batch)
        for repeat in range(self.val_repeats):
            index = batch["index"] + repeat * num_val
            noise = Noise(0, index, clips=self.denoiser.noise)  # not the run's seed: runs share their validation
            eps = noise.like(x_0, Stream.VALIDATION)
            t = self.time_sampling.validation_times(schedule, strata[index].float())
            losses = self.objective(self.denoiser, x_0, cond, t, eps, noise)
            denoised = self.denoiser(add_noise(schedule, x_0, t, eps), t, cond)
            x0 = denoised.x0.clamp(-1, 1) if self.autoencoder.bounded else denoised.x0
            self.log_validation(losses, t)
            self.log_mean("val/x0_mse", (x0 - x_0).square().flatten(1).mean(1))
            self.log_mean("val/eps_mse", (denoised.eps - eps).square().flatten(1).mean(1))
