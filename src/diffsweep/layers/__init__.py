"""What backbones and autoencoders share."""

from diffsweep.layers.attention import Attend, SelfAttention2d, linear_attention
from diffsweep.layers.embeddings import ClassEmbedding, SinusoidalEmbedding, TokenContext
from diffsweep.layers.norms import group_norm, zero_init
from diffsweep.layers.resample import Downsample, Upsample, enlarge, pool
from diffsweep.layers.residual import TIME_EMBEDDINGS, ConvNeXtBlock, ResidualBlock, TimeEmbedding
from diffsweep.layers.transformer import SpatialTransformer

__all__ = [
    "TIME_EMBEDDINGS",
    "Attend",
    "ClassEmbedding",
    "ConvNeXtBlock",
    "Downsample",
    "ResidualBlock",
    "SelfAttention2d",
    "SinusoidalEmbedding",
    "SpatialTransformer",
    "TimeEmbedding",
    "TokenContext",
    "Upsample",
    "enlarge",
    "group_norm",
    "linear_attention",
    "pool",
    "zero_init",
]
