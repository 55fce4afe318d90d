"""What backbones and autoencoders share."""

from diffsweep.layers.attention import SelfAttention2d
from diffsweep.layers.embeddings import SinusoidalEmbedding
from diffsweep.layers.norms import group_norm, zero_init
from diffsweep.layers.patches import PatchEmbedding, axial_rotation, patch_grid, rotate, sincos_positions, unpatchify
from diffsweep.layers.transformer import (
    Block,
    ContextEmbedding,
    CrossAttention,
    LabelEmbedding,
    Modulation,
    ModulationTable,
    SelfAttention,
    SwiGLU,
    mlp,
    modulated,
    rotary_channels,
    run_block,
    token_norm,
)

__all__ = [
    "Block",
    "ContextEmbedding",
    "CrossAttention",
    "LabelEmbedding",
    "Modulation",
    "ModulationTable",
    "PatchEmbedding",
    "SelfAttention",
    "SelfAttention2d",
    "SinusoidalEmbedding",
    "SwiGLU",
    "axial_rotation",
    "group_norm",
    "mlp",
    "modulated",
    "patch_grid",
    "rotary_channels",
    "rotate",
    "run_block",
    "sincos_positions",
    "token_norm",
    "unpatchify",
    "zero_init",
]
