"""Network layers that the backbones, the autoencoders and the classifiers are built from."""

from diffsweep.layers.across_frames import (
    AcrossFrames,
    over_space_and_time,
    over_time,
    space_time_rotation,
    temporal_rotation,
)
from diffsweep.layers.attention import Attend, Pointwise, SelfAttention2d, linear_attention
from diffsweep.layers.conditions import ClassEmbedding, ConditionEmbedding, TokenContext, with_image
from diffsweep.layers.distributed import distributed
from diffsweep.layers.embeddings import SinusoidalEmbedding
from diffsweep.layers.modes import evaluating
from diffsweep.layers.norms import group_norm, zero_init
from diffsweep.layers.patches import PatchEmbedding, axial_rotation, patch_grid, rotate, sincos_positions, unpatchify
from diffsweep.layers.resample import Downsample, Upsample, enlarge, pool
from diffsweep.layers.residual import (
    TIME_EMBEDDINGS,
    Norm,
    ResidualBlock,
    TimeEmbedding,
    embedded_norm,
    residual_sum,
    shortcut,
)
from diffsweep.layers.temporal import (
    Clips,
    PositionBias,
    RelativeBias,
    TemporalAttention,
    TemporalConvolution,
    TemporalSteps,
    clips_of,
    rows_of_frames,
    t5_bucket,
)
from diffsweep.layers.transfer import send
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
    "Block",
    "ClassEmbedding",
    "Clips",
    "ConditionEmbedding",
    "ContextEmbedding",
    "CrossAttention",
    "Downsample",
    "Modulation",
    "ModulationTable",
    "Norm",
    "PatchEmbedding",
    "Pointwise",
    "PositionBias",
    "RelativeBias",
    "ResidualBlock",
    "SelfAttention",
    "SelfAttention2d",
    "SinusoidalEmbedding",
    "SwiGLU",
    "TemporalAttention",
    "TemporalConvolution",
    "TemporalSteps",
    "TimeEmbedding",
    "TokenContext",
    "Upsample",
    "axial_rotation",
    "clips_of",
    "distributed",
    "embedded_norm",
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
    "residual_sum",
    "rotary_channels",
    "rotate",
    "rows_of_frames",
    "run_block",
    "send",
    "shortcut",
    "sincos_positions",
    "space_time_rotation",
    "t5_bucket",
    "temporal_rotation",
    "token_norm",
    "unpatchify",
    "weights_hash",
    "with_image",
    "zero_init",
]
