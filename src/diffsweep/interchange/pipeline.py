"""A pipeline of diffusers for models of diffsweep that none of its own pipelines expresses.

This file is copied into the folders of exported models and needs only torch and diffusers. It is loaded by
``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)``.
"""

import inspect
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn


class DiffsweepPipeline(DiffusionPipeline):
    """A pipeline of a U-Net or a DiT, in pixels or latents, with or without classes and classifier-free guidance.

    Args:
        scheduler: any scheduler of diffusers.
        unet, transformer: the network; one of the two.
        vae: the autoencoder of latents; None for pixels.
        time_scale: factor of the timesteps that the network is given.
        noise_scale: factor of standard normal noise at which sampling starts; None for that of the scheduler.
        num_inference_steps: the number of steps, if a call gives none.
        guidance_scale: s of output(null) + s (output(class) - output(null)), if a call gives none; 1 is no guidance.
        null_class: the id of the null class; None for a network without one.
        num_classes: the number of classes; None for a network without classes.
        step: further arguments of the scheduler's ``step``, such as ``eta``.
        straight: whether the noise levels are 1, 1 - 1/n, ... as in flow matching, in place of the scheduler's.
        norm_groups: the number of groups of the network's norms that have another number than its configuration gives.
        vae_norm_groups: those of the autoencoder's norms.
        exact_frequencies: whether the frequencies of the time embedding are 10000^(-i / (D/2)) in place of
            10000^(-i / (D/2 - 1)).
    """

    _optional_components = ["unet", "transformer", "vae"]  # noqa: RUF012 - the form that diffusers has
    model_cpu_offload_seq = "unet->transformer->vae"

    def __init__(
        self,
        scheduler: Any,
        unet: Any = None,
        transformer: Any = None,
        vae: Any = None,
        time_scale: float = 1.0,
        noise_scale: float | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        null_class: int | None = None,
        num_classes: int | None = None,
        step: dict[str, Any] | None = None,
        straight: bool = False,
        norm_groups: dict[str, int] | None = None,
        vae_norm_groups: dict[str, int] | None = None,
        exact_frequencies: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(scheduler=scheduler, unet=unet, transformer=transformer, vae=vae)
        self.register_to_config(
            time_scale=time_scale,
            noise_scale=noise_scale,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            null_class=null_class,
            num_classes=num_classes,
            step=step,
            straight=straight,
            norm_groups=norm_groups,
            vae_norm_groups=vae_norm_groups,
            exact_frequencies=exact_frequencies,
        )
        _set_groups(self.network, norm_groups or {})
        if vae is not None:
            _set_groups(vae, vae_norm_groups or {})
        if exact_frequencies:
            for block in self.network.transformer_blocks:
                block.norm1.emb.time_proj.downscale_freq_shift = 0

    @property
    def network(self) -> Any:
        """The U-Net or the DiT."""
        return self.transformer if self.unet is None else self.unet

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: list[int] | Tensor | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Return new images.

        Args:
            batch_size: the number of images, if no classes are given.
            class_labels: the class of each image; None for the null class.
            guidance_scale: s, see the class; None for that of the export.
            num_inference_steps: the number of steps; None for that of the export.
            generator: draws the noise.
            latents: standard normal noise to start from, (B, C, H, W); None to draw it.
            output_type: ``pil``, ``np`` (B, H, W, C) or ``pt`` (B, C, H, W); values in [0, 1].
            return_dict: whether the result is an object with ``images``, or a tuple of one.
        """
        config = self.config
        steps = config.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = config.guidance_scale if guidance_scale is None else guidance_scale
        network = self.network
        if class_labels is not None:
            if config.num_classes is None:
                raise ValueError("this model has no classes: leave class_labels out")
            class_labels = torch.as_tensor(class_labels, device=self._execution_device).reshape(-1)
            batch_size = len(class_labels)
        if latents is None:
            side, channels = network.config.sample_size, network.config.in_channels
            latents = randn_tensor((batch_size, channels, side, side), generator, self._execution_device, network.dtype)
        if self.config.straight:
            self.scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)], device=latents.device)
        else:
            self.scheduler.set_timesteps(steps, device=latents.device)
        x = latents * (self.scheduler.init_noise_sigma if config.noise_scale is None else config.noise_scale)
        accepted = inspect.signature(self.scheduler.step).parameters
        options = {**(config.step or {}), "generator": generator}
        options = {key: value for key, value in options.items() if key in accepted}
        for t in self.progress_bar(self.scheduler.timesteps):
            scaled = self.scheduler.scale_model_input(x, t) if hasattr(self.scheduler, "scale_model_input") else x
            output = self._output(scaled, t, class_labels, scale)
            x = self.scheduler.step(output, t, x, **options).prev_sample
        images = x if self.vae is None else self.vae.decode(x / self.vae.config.scaling_factor).sample
        images = (images / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
            images = self.numpy_to_pil(images) if output_type == "pil" else images
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _output(self, x: Tensor, t: Tensor, labels: Tensor | None, scale: float) -> Tensor:
        """Return the guided output of the network, with the variance of the conditional one if it is learned."""
        if labels is None or scale == 1:
            return self._for_scheduler(self._evaluate(x, t, labels), x)
        if self.config.null_class is None:
            raise ValueError("this model has no null class: guidance_scale must be 1")
        null = torch.full_like(labels, self.config.null_class)
        both = self._evaluate(torch.cat([x, x]), t, torch.cat([labels, null]))
        conditional, unconditional = both.chunk(2)
        channels = x.shape[1]
        guided = torch.lerp(unconditional[:, :channels], conditional[:, :channels], scale)
        return self._for_scheduler(torch.cat([guided, conditional[:, channels:]], dim=1), x)

    def _for_scheduler(self, output: Tensor, x: Tensor) -> Tensor:
        """Return the output without the channels of a learned variance, if the scheduler reads none."""
        learned = str(self.scheduler.config.get("variance_type", "")).startswith("learned")
        return output if learned else output[:, : x.shape[1]]

    def _evaluate(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """Return the network's output for x at a timestep."""
        times = (t.to(x.device) * self.config.time_scale).to(torch.float32).expand(len(x))
        if labels is None and self.config.null_class is not None:
            labels = torch.full((len(x),), self.config.null_class, device=x.device)
        if self.unet is not None:
            return self.unet(x, times, **({} if labels is None else {"class_labels": labels})).sample
        labels = torch.zeros(len(x), dtype=torch.long, device=x.device) if labels is None else labels
        return self.transformer(x, timestep=times, class_labels=labels).sample


def _set_groups(module: Any, groups: dict[str, int]) -> None:
    """Set the number of groups of some norms of a module, given by their names."""
    for name, count in groups.items():
        norm = module.get_submodule(name)
        if not isinstance(norm, nn.GroupNorm):
            raise ValueError(f"{name} is no group norm")
        norm.num_groups = count
