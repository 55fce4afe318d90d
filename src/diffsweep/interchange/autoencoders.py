"""Autoencoders of latent diffusion as diffusers' ``AutoencoderKL`` and ``VQModel``.

diffusers has one number for the scale of latents, ``scaling_factor``, and no shift of each channel. Latents here are
z = (h - shift) / scale. Both sides of the latents are 1 x 1 convolutions, so that the shift becomes a part of their
biases, exactly: h - shift has the bias b - shift of the encoder's, and W (h' + shift) + b = W h' + (b + W shift) that
of the decoder's.
"""

from typing import Any

import torch
from torch import Tensor

from diffsweep.autoencoders import KLAutoencoder, VQAutoencoder
from diffsweep.autoencoders.base import LearnedAutoencoder
from diffsweep.autoencoders.convolutional import ConvolutionalAutoencoder
from diffsweep.autoencoders.public import public_names
from diffsweep.errors import UserError
from diffsweep.interchange.unet import norm_groups_of, other_norm_groups
from diffsweep.interchange.weights import Converted, Layers

CODES = "quantize.embedding.weight"


def layers_of(network: ConvolutionalAutoencoder) -> Layers:
    """Return the layers of diffusers' autoencoder by the names of the layers of one of ours."""
    names = [name for name, _ in network.named_parameters() if name.startswith(("encoder.", "decoder."))]
    return {
        name.rpartition(".")[0]: tuple(theirs.rpartition(".")[0] for theirs in public_names(name)) for name in names
    }


def config_of(network: ConvolutionalAutoencoder) -> dict[str, Any]:
    """Return the arguments that the constructors of diffusers' autoencoders have in common, for one of ours."""
    levels: Any = network.encoder.down
    widths = [level.blocks[-1].conv_out.out_channels for level in levels]
    attends = [len(level.attentions) > 0 for level in levels]
    middle: Any = network.encoder.middle
    return {
        "in_channels": network.in_channels,
        "out_channels": network.in_channels,
        "latent_channels": network.shape[0],
        "down_block_types": ["AttnDownEncoderBlock2D" if each else "DownEncoderBlock2D" for each in attends],
        "up_block_types": ["AttnUpDecoderBlock2D" if each else "UpDecoderBlock2D" for each in reversed(attends)],
        "block_out_channels": widths,
        "layers_per_block": len(levels[0].blocks),
        "norm_num_groups": norm_groups_of(network),
        "sample_size": network.shape[-1] * network.factor,
        "scaling_factor": 1 / float(network.scale),
        "mid_block_add_attention": len(middle.attentions) > 0,
    }


def of_kl(network: KLAutoencoder, weights: dict[str, Tensor]) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Return class, further arguments and weights in diffusers of an autoencoder with a KL term."""
    return "AutoencoderKL", {}, weights


def of_vq(network: VQAutoencoder, weights: dict[str, Tensor]) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Return class, further arguments and weights in diffusers of a vector-quantised autoencoder."""
    codes = network.codebook.embedding.detach() - network.shift.flatten()  # type: ignore[union-attr, operator]
    sizes = {"num_vq_embeddings": network.num_codes, "vq_embed_dim": network.shape[0]}
    return "VQModel", sizes, {**weights, CODES: codes}


KINDS: dict[type[LearnedAutoencoder], Any] = {KLAutoencoder: of_kl, VQAutoencoder: of_vq}


def converted(network: LearnedAutoencoder) -> Converted:
    """Return a trained autoencoder as one of diffusers, whose latents divided by its scale are the standardised ones.

    Raises:
        UserError: diffusers has no such autoencoder.
    """
    if type(network) not in KINDS or not isinstance(network, ConvolutionalAutoencoder):
        raise UserError(f"autoencoder: diffusers has no {type(network).__name__}; it has KL and VQ autoencoders")
    layers = layers_of(network)
    weights: dict[str, Tensor] = {}
    for name, value in network.named_parameters():
        names = public_names(name) if name.startswith(("encoder.", "decoder.")) else ()
        for part, theirs in zip(value.detach().chunk(len(names)) if names else (), names, strict=True):
            weights[theirs] = part.flatten(1) if "attentions" in theirs and part.ndim == 4 else part
    shift = network.shift.flatten()
    shifted, post = weights["quant_conv.bias"].clone(), weights["post_quant_conv.weight"].flatten(1)
    shifted[: len(shift)] -= shift
    weights["quant_conv.bias"] = shifted
    weights["post_quant_conv.bias"] = weights["post_quant_conv.bias"] + post @ shift
    kind, more, weights = KINDS[type(network)](network, weights)
    plain = {name: torch.clone(value).cpu().contiguous() for name, value in weights.items()}
    return Converted(kind, {**config_of(network), **more}, plain, other_norm_groups(network, layers))
