"""Checkpoints of latent-diffusion (arXiv:2112.10752): the U-Net, the first stage and the table of class tokens.

A checkpoint is one state dict with the parts under prefixes. The average of the U-Net's weights is beside them, under
its names without dots.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffsweep.autoencoders import KLAutoencoder, VQAutoencoder
from diffsweep.autoencoders.convolutional import ConvolutionalAutoencoder
from diffsweep.backbones import UNet
from diffsweep.conditioning import ClassToken
from diffsweep.interchange.published.base import Form, Origins, Tensors, tensors_of, under
from diffsweep.interchange.published.guided import GuidedUNet
from diffsweep.layers.named_weights import Origin, joined

NETWORK, AVERAGE, FIRST_STAGE = "model.diffusion_model.", "model_ema.diffusion_model", "first_stage_model."
TOKENS = "cond_stage_model.embedding.weight"
# Patterns that turn the names of our autoencoder's layers into the published ones, applied in order.
RENAMED = (
    (r"^encoder\.quant_conv", "quant_conv"),
    (r"^decoder\.post_quant_conv", "post_quant_conv"),
    (r"\.middle\.blocks\.0\.", ".mid.block_1."),
    (r"\.middle\.blocks\.1\.", ".mid.block_2."),
    (r"\.middle\.attentions\.0\.", ".mid.attn_1."),
    (r"\.blocks\.(\d+)\.", r".block.\1."),
    (r"\.attentions\.(\d+)\.", r".attn.\1."),
    (r"(block[._]\d+)\.norm_in", r"\1.norm1"),
    (r"(block[._]\d+)\.conv_in", r"\1.conv1"),
    (r"(block[._]\d+)\.norm_out", r"\1.norm2"),
    (r"(block[._]\d+)\.conv_out", r"\1.conv2"),
    (r"(block[._]\d+)\.skip", r"\1.nin_shortcut"),
    (r"\.to_out", ".proj_out"),
    (r"\.down\.(\d+)\.resample", r".down.\1.downsample.conv"),
    (r"\.up\.(\d+)\.resample", r".up.\1.upsample.conv"),
)


class LatentUNet(GuidedUNet):
    """The U-Net of a checkpoint of latent-diffusion or Stable Diffusion 1, averaged if the checkpoint has an average.

    If the condition is a class token, the null token is the last row of the checkpoint's table.
    """

    name = "latent_diffusion"
    published = "latent-diffusion and Stable Diffusion 1"
    ignored = (TOKENS,)

    def weights_of(self, content: Any) -> Tensors | None:
        weights = tensors_of(content) or {}
        found = under(weights, NETWORK)
        averages = {key: f"{AVERAGE}{key.replace('.', '')}" for key in found}
        found = {key: weights.get(averages[key], value) for key, value in found.items()}
        return found | {TOKENS: weights[TOKENS]} if TOKENS in weights and found else found or None

    def sources(self, network: nn.Module, weights: Tensors) -> Origins:
        assert isinstance(network, UNet)
        found = super().sources(network, weights)
        if network.context is not None and TOKENS in weights:
            found["context.null"] = Origin((TOKENS,), lambda parts: joined(parts)[-1])
        return found


class ClassTokens(Form):
    """The table of class tokens that a class-conditional U-Net attends to, without its last row, the null token."""

    name = "latent_class_tokens"
    published = "the class tokens of latent-diffusion"
    networks = (ClassToken,)
    signature = (rf"^{TOKENS}$",)
    beside = True

    def weights_of(self, content: Any) -> Tensors | None:
        weights = tensors_of(content) or {}
        return {TOKENS: weights[TOKENS]} if TOKENS in weights else None

    def sources(self, network: nn.Module, weights: Tensors) -> Origins:
        assert isinstance(network, ClassToken)
        rows = len(network.classes.weight)
        return {"classes.weight": Origin((TOKENS,), lambda parts: joined(parts)[: max(rows, len(joined(parts)) - 1)])}


class LatentAutoencoder(Form):
    """A first stage of latent-diffusion, with a KL term or a codebook, alone in a file or in that of its U-Net.

    Latents are multiplied by ``scale_factor``, if the file has it, and otherwise as the first stage gives them.
    """

    name = "latent_autoencoder"
    published = "first stages of latent-diffusion"
    networks = (KLAutoencoder, VQAutoencoder)
    signature = (r"^encoder\.down\.0\.block\.0\.", r"^decoder\.up\.0\.block\.0\.", r"^quant_conv\.")
    ignored = (r"^loss\.", r"^model_ema\.", r"^scale_factor$")

    def groups_of(self, channels: int) -> int:
        """Return the number of groups of a norm in these networks, 32 at any width."""
        return 32

    def weights_of(self, content: Any) -> Tensors | None:
        weights = tensors_of(content) or {}
        found = under(weights, FIRST_STAGE) or weights
        return {**found, "scale_factor": weights.get("scale_factor", torch.ones(()))} if found else None

    def own(self, network: nn.Module) -> set[str]:
        return {"shift", *(key for key in network.state_dict() if key.startswith("codebook."))}

    def sources(self, network: nn.Module, weights: Tensors) -> Origins:
        assert isinstance(network, ConvolutionalAutoencoder)
        levels: Any = network.decoder.up
        found = {}
        for name, _ in network.named_parameters():
            layer = name.rpartition(".")[0]
            found[layer] = Origin(self._names(layer, len(levels)))
        found.pop("codebook", None)
        found["scale"] = Origin(("scale_factor",), _inverse)
        if isinstance(network, VQAutoencoder):
            found["codebook.embedding"] = Origin(("quantize.embedding.weight",))
        return found

    def _names(self, layer: str, levels: int) -> tuple[str, ...]:
        """Return the published names of a layer, which counts levels from the largest maps on both ways."""
        layer = re.sub(r"^decoder\.up\.(\d+)", lambda match: f"decoder.up.{levels - 1 - int(match[1])}", layer)
        for ours, theirs in RENAMED:
            layer = re.sub(ours, theirs, f"{layer}.").removesuffix(".")
        return tuple(layer.replace("to_qkv", part) for part in "qkv") if "to_qkv" in layer else (layer,)


def _inverse(parts: Sequence[Tensor]) -> Tensor:
    return 1 / joined([part.reshape(1) for part in parts])
