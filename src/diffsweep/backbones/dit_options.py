"""The options of a DiT, and the ways in which time and condition enter its blocks."""

from dataclasses import dataclass
from typing import NamedTuple

from diffsweep.backbones.base import TokenSizes, TransformerOptions


class BlockType(NamedTuple):
    """A way in which the embeddings of time and class enter the blocks of a DiT.

    Attributes:
        in_sequence: the embeddings are tokens before those of the image.
        in_context: the embeddings are tokens that the image's tokens attend to by cross-attention.
        modulations: number of vectors that modulate a block: 0; 4: shift and scale of both norms; 6: these and the
            gates of both branches.
        zero: initialise the modulations to zero; blocks with gates then start as the identity.
        shared: compute the modulations once for all blocks; each block adds a learned table of its own.
    """

    in_sequence: bool = False
    in_context: bool = False
    modulations: int = 0
    zero: bool = False
    shared: bool = False


BLOCKS = {
    "in_context": BlockType(in_sequence=True),
    "cross_attention": BlockType(in_context=True),
    "adaln": BlockType(modulations=4),
    "adaln_zero": BlockType(modulations=6, zero=True),
    "adaln_single": BlockType(modulations=6, shared=True),
}


@dataclass(frozen=True, kw_only=True)
class DiTOptions(TransformerOptions, TokenSizes):
    """The options of a DiT: those of its transformer blocks, and the sizes of the condition's parts that it reads.

    Attributes:
        time_endpoint: the frequencies of the time embedding end at 1 / 10000, as in diffusers, see
            :class:`~diffsweep.layers.SinusoidalEmbedding`.
    """

    time_endpoint: bool = False
