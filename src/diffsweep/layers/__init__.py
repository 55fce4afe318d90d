"""What backbones and autoencoders share."""

from diffsweep.layers.attention import Attend, AttentionPool2d, SelfAttention2d, linear_attention
from diffsweep.layers.conditions import ClassEmbedding, ConditionEmbedding, TokenContext, accepted, with_image
from diffsweep.layers.distributed import distributed
from diffsweep.layers.embeddings import SinusoidalEmbedding
from diffsweep.layers.modes import evaluating
from diffsweep.layers.norms import group_norm, zero_conv, zero_init
from diffsweep.layers.patches import PatchEmbedding, axial_rotation, patch_grid, rotate, sincos_positions, unpatchify
from diffsweep.layers.resample import Downsample, Upsample, enlarge, pool
from diffsweep.layers.residual import TIME_EMBEDDINGS, ConvNeXtBlock, ResidualBlock, TimeEmbedding
from diffsweep.layers.spatial_transformer import SpatialTransformer
from diffsweep.layers.temporal import (
    AcrossFrames,
    Clips,
    PositionBias,
    RelativeBias,
    TemporalAttention,
    TemporalConvolution,
    TemporalSteps,
    clips_of,
    over_space_and_time,
    over_time,
    rows_of_frames,
    space_time_rotation,
    t5_bucket,
    temporal_rotation,
)
from diffsweep.layers.transformer import (
    Block,
    ContextEmbedding,
    CrossAttention,
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
from diffsweep.layers.weights import weights_hash

__all__ = [
    "TIME_EMBEDDINGS",
    "AcrossFrames",
    "Attend",
    "AttentionPool2d",
    "Block",
    "ClassEmbedding",
    "Clips",
    "ConditionEmbedding",
    "ContextEmbedding",
    "ConvNeXtBlock",
    "CrossAttention",
    "Downsample",
    "Modulation",
    "ModulationTable",
    "PatchEmbedding",
    "PositionBias",
    "RelativeBias",
    "ResidualBlock",
    "SelfAttention",
    "SelfAttention2d",
    "SinusoidalEmbedding",
    "SpatialTransformer",
    "SwiGLU",
    "TemporalAttention",
    "TemporalConvolution",
    "TemporalSteps",
    "TimeEmbedding",
    "TokenContext",
    "Upsample",
    "accepted",
    "axial_rotation",
    "clips_of",
    "distributed",
    "enlarge",
    "evaluating",
    "group_norm",
    "linear_attention",
    "mlp",
    "modulated",
    "over_space_and_time",
    "over_time",
    "patch_grid",
    "pool",
    "rotary_channels",
    "rotate",
    "rows_of_frames",
    "run_block",
    "sincos_positions",
    "space_time_rotation",
    "t5_bucket",
    "temporal_rotation",
    "token_norm",
    "unpatchify",
    "weights_hash",
    "with_image",
    "zero_conv",
    "zero_init",
]
