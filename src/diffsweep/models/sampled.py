r"""What models that draw samples have in common: their denoiser with its condition, its guidance and its sampler.

Sampling starts from :math:`x_1 = \sigma_1 \epsilon`, and a sampler integrates it to t = 0 with the guided denoiser. The
result is decoded from the space of diffusion to pixels.
"""

from collections.abc import Callable
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from diffsweep import pictures
from diffsweep.autoencoders import Autoencoder
from diffsweep.backbones import FeatureCache
from diffsweep.conditioning import Conditioning, ControlImages
from diffsweep.datasets import Batch, ImageData, Samples
from diffsweep.diffusion import Condition, Denoiser, NetworkDenoiser, Noise, Stream, add_noise, prior
from diffsweep.layers import send, send_all
from diffsweep.models.timed import TimedModel
from diffsweep.phases import SAMPLING, phase
from diffsweep.samplers import Callback, Sampler


class SampledModel(TimedModel):
    """A model that draws samples from noise; a subclass makes its parts and trains them.

    Attributes:
        denoiser: the denoiser that is trained.
        conditioning: maps a batch of data, or a request, to its :class:`~diffsweep.diffusion.Condition` or to None.
        control: the images that the network's control networks read; None without such networks.
        autoencoder: maps pixels to the space of x_0 and back; the identity for diffusion in pixels.
        sampler: integrates from noise at t = 1 to samples at t = 0.
        guidance: wraps the denoiser for sampling; called as ``guidance(denoiser, times=...)`` with the sampler's times.
        feature_cache: the steps in which sampling reuses deep features of the network; None for no step.
    """

    networks = ("denoiser.backbone",)
    control: ControlImages | None = None
    feature_cache: FeatureCache | None = None
    denoiser: NetworkDenoiser
    conditioning: Conditioning
    autoencoder: Autoencoder
    sampler: Sampler
    guidance: Callable[..., Denoiser]

    @torch.no_grad()
    def sample(
        self,
        indices: Tensor,
        seed: int,
        cond: Condition | None = None,
        sampler: Sampler | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Return new samples in pixels, images (B, C, H, W) or clips (B, C, F, H, W).

        The noise of index i under a seed is the same in any batch, so a sample can be drawn again alone.

        Args:
            indices: the numbers of the samples, int64 (B,).
            seed: the seed of their noise.
            cond: the condition of each sample; None: those that the conditioning requests for these indices without
                data, such as each class in turn. A conditioning that requires data then raises a ValueError.
            sampler: a sampler to use in place of the model's.
            callback: called after each step of the sampler with its states in the space, not in pixels: see
                :class:`~diffsweep.samplers.Sampler`.
        """
        sampler = self.sampler if sampler is None else sampler
        cond = self.request(indices, None)[1] if cond is None else cond
        return self.sample_from(*self.start(indices, seed, sampler=sampler), cond, sampler, callback)

    def request(self, indices: Tensor, samples: Samples | None) -> tuple[Batch, Condition | None]:
        """Return the request for samples of given indices, and its condition on the model's device.

        Args:
            indices: the numbers of the samples, int64, (B,).
            samples: held-out data, from which some conditionings take what they request; None if not at hand.

        Returns:
            The request, a batch without ``x`` that states what each sample is to show (such as its ``label``), and the
            condition that the network takes for it, or None.
        """
        request = self.request_for(indices, samples)
        return request, self.condition_of(request)

    def request_for(self, indices: Tensor, samples: Samples | None) -> Batch:
        """Return the request of :meth:`request` alone: that of the conditioning, with control images, if any are read.

        Args:
            indices, samples: see :meth:`request`; without ``samples`` it has no control images.
        """
        request = self.conditioning.request(indices, samples)
        return request if self.control is None else {**request, **self.control.request(indices, samples)}

    @torch.no_grad()
    def condition_of(self, batch: Batch) -> Condition | None:
        """Return the condition, or None, that the network takes for a batch or a request, on the model's device."""
        return self.condition(send_all(batch, self.device))

    def condition(self, batch: Batch, noise: Noise | None = None) -> Condition | None:
        """Return the condition of a batch, with images in the space of diffusion; None for a model without conditions.

        Subclasses add parts of the condition that depend on other models.

        Args:
            batch: samples with their annotations, or a request, on the model's device.
            noise: the random numbers of training samples, by which conditions are dropped; None drops none.
        """
        return self.autoencoder.condition_in_space(self.conditioned(batch, noise))

    def conditioned(self, batch: Batch, noise: Noise | None = None) -> Condition | None:
        """Return the condition of the conditioning for a batch, with control images beside it, if any are read.

        Args:
            batch, noise: see :meth:`condition`.
        """
        cond = self.conditioning(batch, noise)
        return cond if self.control is None else self.control.condition(cond, batch, noise)

    def completed(self, cond: Condition | None, noise: Noise) -> Condition | None:
        """Return the condition with what other models draw for it; here the condition as it is.

        Args:
            cond: the condition of each sample; None for no condition.
            noise: the noise of the sampler's steps, of the same samples.
        """
        return cond

    def noise_of(self, indices: Tensor, seed: int | Tensor) -> Noise:
        """Return the source of random numbers for samples of given indices, on the model's device.

        Args:
            indices: the numbers of the samples, int64 (B,).
            seed: the seed, one for all samples, or one for each, (B,).
        """
        seed = send(seed, self.device) if isinstance(seed, Tensor) else seed
        return Noise(seed, send(indices, self.device), clips=self.denoiser.noise)

    @torch.no_grad()
    def start(
        self,
        indices: Tensor,
        seed: int | Tensor,
        source: Tensor | None = None,
        sampler: Sampler | None = None,
        num_frames: int | None = None,
    ) -> tuple[Tensor, Noise]:
        """Return the state x from which the sampler starts, in the space of diffusion, and the noise for its steps.

        Args:
            indices: the numbers of the samples, int64 (B,).
            seed: the seed of the noise; one for all samples, or one for each, (B,).
            source: images x_0 (B, C, H, W) to start from, encoded to the space; x is then alpha_t x_0 + sigma_t eps at
                t = ``sampler.start``. None for pure noise, sigma_t eps.
            sampler: a sampler to use in place of the model's.
            num_frames: the number of frames of clips, if it differs from that of the space.
        """
        noise, schedule = self.noise_of(indices, seed), self.denoiser.schedule
        shape = self.autoencoder.shape if num_frames is None else self.autoencoder.shape_of(num_frames)
        x = noise.normal(*shape, stream=Stream.PRIOR, dtype=self.sample_type)
        t = torch.tensor((self.sampler if sampler is None else sampler).start, dtype=torch.float64)
        if source is None:
            return prior(schedule, x, t), noise
        return add_noise(schedule, self.autoencoder.encode(source.to(x)), t, x), noise

    @torch.no_grad()
    def start_inverted(
        self, indices: Tensor, seed: int | Tensor, source: Tensor, cond: Condition | None = None
    ) -> tuple[Tensor, Noise]:
        r"""Return the state from which the sampler starts by stochastic inversion, and the noise for its steps.

        With :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon` at t = ``sampler.start`` and the noise
        :math:`\hat{\epsilon}(x_t)` that the denoiser predicts in it without guidance, the state is
        :math:`\alpha_t x_0 + \sigma_t \hat{\epsilon}(x_t)` (InST, arXiv:2211.13203). For Gaussian data the samples are
        nearer to x_0 than those from x_t.

        Args:
            indices, seed: see :meth:`start`.
            source: images x_0 (B, C, H, W), encoded to the space.
            cond: the condition of each sample.
        """
        noise, schedule = self.noise_of(indices, seed), self.denoiser.schedule
        x_0 = self.autoencoder.encode(source.to(self.device, self.sample_type))
        t = torch.tensor(self.sampler.start, dtype=torch.float64)
        eps = noise.normal(*x_0.shape[1:], stream=Stream.PRIOR, dtype=self.sample_type)
        predicted = self.denoiser(add_noise(schedule, x_0, t, eps), t, self.completed(cond, noise)).eps
        return add_noise(schedule, x_0, t, predicted), noise

    @property
    def denoisers(self) -> tuple[Denoiser, ...]:
        """The denoisers that drawing a sample evaluates: the model's own, after those of stages below it, if any."""
        return (self.denoiser,)

    def guided(self, sampler: Sampler, cached: bool = False) -> Denoiser:
        """Return the denoiser with the model's guidance, on the model's device.

        Args:
            sampler: the sampler that will use it; some guidances depend on the times of its steps.
            cached: whether it is for one trajectory, and reuses features as the model's ``feature_cache`` chooses.
        """
        times, cache = sampler.times(self.denoiser.schedule), self.feature_cache if cached else None
        return self.guidance(cache(self.denoiser, times) if cache else self.denoiser, times=times).to(self.device)

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
        """Return the samples in which the sampler ends that starts from given states.

        Args:
            x: states in the space of diffusion at t = ``sampler.start``, (B, ...), as from :meth:`start`.
            noise: the noise of the sampler's steps.
            cond: the condition of each sample; None for no condition.
            sampler: a sampler to use in place of the model's.
            callback: called after each step: see :class:`~diffsweep.samplers.Sampler`.
            decode: whether samples are decoded to pixels, and known pixels pasted into them; if False, they are
                returned in the space.
        """
        sampler = self.sampler if sampler is None else sampler
        with phase(SAMPLING):
            denoiser = self.guided(sampler, cached=True)
            x_0 = sampler(denoiser, x.to(self.device), self.completed(cond, noise), noise, callback)
        if not decode:
            return x_0
        pixels = self.autoencoder.decode(x_0)
        return pixels if cond is None or cond.pasted is None else cond.pasted(pixels)

    def agreement_of_each(self, x: Tensor, request: Batch) -> dict[str, Tensor]:
        """Return how well each sample agrees with its control images, (B,), by name; nothing without such images.

        :func:`~diffsweep.conditioning.mean_agreement` makes numbers of them.

        Args:
            x: samples in pixels, (B, C, H, W).
            request: what was requested of them.
        """
        if self.control is None or "control" not in request:
            return {}
        return self.control.agreement_of_each(x, request["control"])

    def show(self, count: int, data: ImageData | None, seed: int, steps: int | None) -> tuple[Tensor, ...]:
        """Return the first ``count`` samples of a seed in pixels, to be shown in training, after their control images.

        Args:
            count: the number of samples, which have the indices 0 to ``count`` - 1.
            data: the dataset, of whose held-out samples some conditionings take their conditions; None if not at hand.
            seed: the seed of the noise.
            steps: the number of the sampler's steps; None for its own number.
        """
        sampler = self.sampler if steps is None else self.sampler.with_steps(steps)
        indices = torch.arange(count)
        request, cond = self.request(indices, None if data is None else data.deferred("val"))
        return (*self.control_pictures(request), self.sample(indices, seed, cond, sampler))

    def control_pictures(self, request: Batch) -> list[Tensor]:
        """Return the control images of a request as pictures, (B, C, H, W) for each control network; none without."""
        return [] if self.control is None or "control" not in request else self.control.pictures(request["control"])

    def drawing(self, count: int, data: ImageData | None) -> Callable[..., Image.Image]:
        """Return a function that draws the result of :meth:`show`, each sample below its class or caption.

        Samples are in a grid, or in rows below their control images.

        Args:
            count: the number of samples.
            data: as of :meth:`show`.
        """
        request = self.request_for(torch.arange(count), None if data is None else data.deferred("val"))
        labels, control = self.conditioning.described(request), self.control_pictures(request)
        if not control:
            return partial(pictures.grid, labels=labels)
        return partial(pictures.rows, names=[*["control"] * len(control), "sample"], labels=[labels])

    @torch.no_grad()
    def invert(
        self, images: Tensor, cond: Condition | None = None, guided: bool = True, callback: Callback | None = None
    ) -> Tensor:
        """Return the state in the space, at the sampler's start, from which sampling ends near images (B, C, H, W).

        Args:
            images: in pixels.
            cond: the condition of each image.
            guided: whether the denoiser has the model's guidance.
            callback: called after each step of the inversion: see :meth:`~diffsweep.samplers.DDIM.invert`.

        Raises:
            ValueError: the sampler is not deterministic DDIM, the only one that can be inverted.
        """
        x_0 = self.autoencoder.encode(images.to(self.device, self.sample_type))
        return self.sampler.invert(self.guided(self.sampler) if guided else self.denoiser, x_0, cond, callback)
