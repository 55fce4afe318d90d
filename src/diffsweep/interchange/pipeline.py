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
    """A pipeline of a U-Net or a DiT, in pixels or latents, of classes, texts or no condition, with guidance.

    Args:
        scheduler: any scheduler of diffusers.
        unet, transformer: the network; one of the two.
        vae: the autoencoder of latents; None for pixels.
        text_encoder, tokenizer: those of a model of texts.
        time_scale: factor of the timesteps that the network is given.
        noise_scale: factor of standard normal noise at which sampling starts; None for that of the scheduler.
        num_inference_steps: the number of steps, if a call gives none.
        guidance_scale: s of output(null) + s (output(condition) - output(null)), if a call gives none; 1: no guidance.
        null_class: the id of the null class; None for a network without one.
        num_classes: the number of classes; None for a network without classes.
        step: further arguments of the scheduler's ``step``, such as ``eta``.
        straight: whether the noise levels are 1, 1 - 1/n, ... as in flow matching, in place of the scheduler's.
        norm_groups: the number of groups of the network's norms that have another number than its configuration gives.
        vae_norm_groups: those of the autoencoder's norms.
        exact_frequencies: whether the frequencies of the time embedding are 10000^(-i / (D/2)) in place of
            10000^(-i / (D/2 - 1)).
        null_token: the token, D numbers, that takes the place of those of an empty text; None: it has its encoding.
        negative_prompt: the text that guidance leads away from, if a call gives none; None for the empty text.
        masks_padding: whether text encoder and network do not attend to padding.
    """

    _optional_components = [  # noqa: RUF012 - the form that diffusers has
        "unet",
        "transformer",
        "vae",
        "text_encoder",
        "tokenizer",
    ]
    model_cpu_offload_seq = "text_encoder->unet->transformer->vae"

    def __init__(
        self,
        scheduler: Any,
        unet: Any = None,
        transformer: Any = None,
        vae: Any = None,
        text_encoder: Any = None,
        tokenizer: Any = None,
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
        null_token: list[float] | None = None,
        negative_prompt: str | None = None,
        masks_padding: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(
            scheduler=scheduler,
            unet=unet,
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
        )
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
            null_token=null_token,
            negative_prompt=negative_prompt,
            masks_padding=masks_padding,
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
        prompt: str | list[str] | None = None,
        negative_prompt: str | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Return new images.

        Args:
            batch_size: the number of images, if no classes and no texts are given.
            class_labels: the class of each image; None for the null class.
            prompt: the text of each image; None for the empty text.
            negative_prompt: the text that guidance leads away from; None for that of the export.
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
        condition, null = self._conditions(batch_size, class_labels, prompt, negative_prompt)
        if class_labels is not None and null is None and scale != 1:
            raise ValueError("this model has no null class: guidance_scale must be 1")
        batch_size = len(next(iter(condition.values()))) if condition else batch_size
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
            output = self._output(scaled, t, condition, null, scale)
            x = self.scheduler.step(output, t, x, **options).prev_sample
        images = x if self.vae is None else self.vae.decode(x / self.vae.config.scaling_factor).sample
        images = (images / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
            images = self.numpy_to_pil(images) if output_type == "pil" else images
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _conditions(
        self, batch_size: int, labels: Any, prompt: str | list[str] | None, negative: str | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Return the arguments of the network for the conditions, and for what guidance leads away from, if any."""
        device, null_class = self._execution_device, self.config.null_class
        if labels is not None and self.config.num_classes is None:
            raise ValueError("this model has no classes: leave class_labels out")
        if prompt is not None and self.text_encoder is None:
            raise ValueError("this model has no texts: leave prompt out")
        if self.text_encoder is not None:
            texts = [""] * batch_size if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
            negative = self.config.negative_prompt if negative is None else negative
            return self._encode(texts), None if prompt is None else self._encode([negative or ""] * len(texts))
        if labels is not None:
            labels = torch.as_tensor(labels, device=device).reshape(-1)
            away = None if null_class is None else {"class_labels": torch.full_like(labels, null_class)}
            return {"class_labels": labels}, away
        if null_class is not None or self.unet is None:
            return {"class_labels": torch.full((batch_size,), null_class or 0, device=device)}, None
        return {}, None

    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        """Return the arguments of the network for texts, with the null token in place of empty ones, if it has one."""
        length, device = self.tokenizer.model_max_length, self._execution_device
        inputs = self.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        ids, mask = inputs.input_ids.to(device), inputs.attention_mask.to(device)
        masked = {"attention_mask": mask} if self.config.masks_padding else {}
        tokens = self.text_encoder(input_ids=ids, **masked).last_hidden_state
        if self.config.null_token is not None:
            empty = torch.tensor([not text.strip() for text in texts], device=device)[:, None]
            null = torch.tensor(self.config.null_token, device=device, dtype=tokens.dtype)
            tokens, mask = torch.where(empty[..., None], null, tokens), mask | empty
        attended = {"encoder_attention_mask": mask} if self.config.masks_padding else {}
        return {"encoder_hidden_states": tokens.to(self.network.dtype), **attended}

    def _output(
        self, x: Tensor, t: Tensor, condition: dict[str, Tensor], null: dict[str, Tensor] | None, scale: float
    ) -> Tensor:
        """Return the guided output of the network, with the variance of the conditional one if it is learned."""
        if scale == 1 or null is None:
            return self._for_scheduler(self._evaluate(x, t, condition), x)
        joined = {key: torch.cat([value, null[key]]) for key, value in condition.items()}
        conditional, unconditional = self._evaluate(torch.cat([x, x]), t, joined).chunk(2)
        channels = x.shape[1]
        guided = torch.lerp(unconditional[:, :channels], conditional[:, :channels], scale)
        return self._for_scheduler(torch.cat([guided, conditional[:, channels:]], dim=1), x)

    def _for_scheduler(self, output: Tensor, x: Tensor) -> Tensor:
        """Return the output without the channels of a learned variance, if the scheduler reads none."""
        learned = str(self.scheduler.config.get("variance_type", "")).startswith("learned")
        return output if learned else output[:, : x.shape[1]]

    def _evaluate(self, x: Tensor, t: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """Return the network's output for x at a timestep."""
        times = (t.to(x.device) * self.config.time_scale).to(torch.float32).expand(len(x))
        return self.network(x, timestep=times, **condition).sample


def _set_groups(module: Any, groups: dict[str, int]) -> None:
    """Set the number of groups of some norms of a module, given by their names."""
    for name, count in groups.items():
        norm = module.get_submodule(name)
        if not isinstance(norm, nn.GroupNorm):
            raise ValueError(f"{name} is no group norm")
        norm.num_groups = count
