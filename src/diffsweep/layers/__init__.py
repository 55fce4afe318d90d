"""What backbones and autoencoders share."""

from diffsweep.layers.attention import SelfAttention2d
from diffsweep.layers.embeddings import SinusoidalEmbedding
from diffsweep.layers.norms import group_norm, zero_init

__all__ = ["SelfAttention2d", "SinusoidalEmbedding", "group_norm", "zero_init"]
