"""DiTs as diffusers' ``DiTTransformer2DModel``, which are the same functions of the weights.

diffusers keeps a copy of the embeddings of time and class in each block, where the authors' code has one for all. Its
time embedding has the frequencies 10000^(-i / (D/2 - 1)) where the authors' code has 10000^(-i / (D/2)).
"""

from typing import Any

import torch
from torch import Tensor

from diffsweep.backbones import DiT
from diffsweep.errors import UserError
from diffsweep.interchange.weights import Layers, refuse_others

BLOCK = {
    "modulation.linear": ("norm1.linear",),
    "attention.to_qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attention.to_out": ("attn1.to_out.0",),
    "mlp.0": ("ff.net.0.proj",),
    "mlp.2": ("ff.net.2",),
}
ENDS = {"embed_patches": "pos_embed.proj", "modulation_out.linear": "proj_out_1", "head": "proj_out_2"}
EMBEDDINGS = {
    "embed_time.0": "timestep_embedder.linear_1",
    "embed_time.2": "timestep_embedder.linear_2",
    "embed_condition.classes": "class_embedder.embedding_table",
}
IN_BLOCKS = "transformer_blocks.{}.norm1.emb."  # the place of a copy of the embeddings
ONLY: dict[str, Any] = {
    "mlp_ratio": 4.0,
    "qk_norm": False,
    "rope": False,
    "swiglu": False,
    "rms_norm": False,
    "vector_dim": None,
    "num_scalars": None,
    "image_channels": 0,
    "context_dim": None,
}


def layers_of(network: DiT) -> Layers:
    """Return the layers of diffusers' network by the names of those of a DiT, with the embeddings of block 0."""
    found: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in ENDS.items()}
    found |= {ours: (IN_BLOCKS.format(0) + theirs,) for ours, theirs in EMBEDDINGS.items()}
    for index in range(len(network.blocks)):
        place = f"transformer_blocks.{index}"
        found |= {f"blocks.{index}.{ours}": tuple(f"{place}.{t}" for t in theirs) for ours, theirs in BLOCK.items()}
    return found


def kind_and_config(network: DiT, image_size: int) -> tuple[str, dict[str, Any]]:
    """Return the class of diffusers that computes what a DiT does, and the arguments of its constructor.

    A network without classes is one of one class, whose embedding is zero.

    Args:
        network: the network.
        image_size: the side of x that it is used for.

    Raises:
        UserError: diffusers has no such network; the message names the option.
    """
    options = network.options
    refuse_others(options, ONLY, "DiTTransformer2DModel")
    if network.modulation_out is None or network.kind.modulations != 6 or network.kind.shared:
        raise UserError("backbone.block: DiTTransformer2DModel of diffusers has adaln_zero only")
    return "DiTTransformer2DModel", {
        "num_attention_heads": options.num_heads,
        "attention_head_dim": options.channels // options.num_heads,
        "in_channels": network.embed_patches.in_features // options.patch_size**2,
        "out_channels": network.head.out_features // options.patch_size**2,
        "num_layers": options.depth,
        "sample_size": image_size,
        "patch_size": options.patch_size,
        "num_embeds_ada_norm": options.num_classes or 1,
        "norm_eps": 1e-6,
    }


def in_every_block(state: dict[str, Tensor], network: DiT) -> dict[str, Tensor]:
    """Return weights under diffusers' names with the embeddings of block 0 in every block.

    Args:
        state: the weights, with the embeddings of block 0.
        network: the DiT that they are from; without classes, the embedding of classes is added as zeros.
    """
    first = IN_BLOCKS.format(0)
    embeddings = {name.removeprefix(first): value for name, value in state.items() if name.startswith(first)}
    embeddings.setdefault("class_embedder.embedding_table.weight", torch.zeros(2, network.options.channels))
    copies = {
        IN_BLOCKS.format(index) + name: value.clone()
        for index in range(len(network.blocks))
        for name, value in embeddings.items()
    }
    return {**state, **copies}


def is_a_copy(name: str, network: DiT) -> bool:
    """Return whether a weight of diffusers' network is made by :func:`in_every_block` and not by a layer of ours."""
    if network.options.num_classes is None and "class_embedder" in name:
        return True
    return ".norm1.emb." in name and not name.startswith(IN_BLOCKS.format(0))
