r"""The vectors of words by attention to an image: the style of one image (InST, Zhang et al. 2023, arXiv:2211.13203).

With tokens :math:`\tau(y) \in \mathbb{R}^{N \times F}` of an image y and queries :math:`v_0`, the vectors of a word
that the model knows,

.. math:: v_{i+1} = \mathrm{Block}_i(v_i, W \tau(y) + P), \quad v = v_0 + W_\text{out} v_n,

where each block lets the vectors attend to one another and to the tokens of the image. The vectors are no weights of
their own: what is learned of a single image are the maps of the attention, with dropout against overfitting. In the
paper the queries begin as the embedding of the image itself; here they begin as a known word, and
:math:`W_\text{out} = 0` at the start, so that a model starts with the samples of that word.
"""

import torch
from torch import Tensor, nn

from diffsweep.conditioning.image_encoder import ImageEncoder
from diffsweep.layers import Block, token_norm, zero_init


class StyleAttention(nn.Module):
    """A map of the vectors of words (n, D) to vectors of the style of an image, by attention to tokens of the image.

    Args:
        encoder: the encoder of the image as tokens; it is used once, by :meth:`look_at`, and is in no checkpoint.
        width: D, the width of the words' vectors.
        depth: the number of blocks of self-attention, cross-attention and MLP.
        num_heads: the number of attention heads, which divides D.
        dropout: the probability that an entry of the image's embedded tokens, or of the last block's output, is 0 in a
            training step.

    Attributes:
        encoding: the tokens of the image, (N, F), which checkpoints keep, so that samples need no image; 0 before
            :meth:`look_at`.

    Raises:
        ValueError: a setting is out of its range.
    """

    encoding: Tensor

    def __init__(
        self, encoder: ImageEncoder, width: int, depth: int = 2, num_heads: int = 4, dropout: float = 0.05
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"concept.attention.depth must be at least 1, not {depth}")
        if num_heads < 1 or width % num_heads:
            raise ValueError(
                f"concept.attention.num_heads={num_heads} does not divide conditioning.context_dim={width}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"concept.attention.dropout must be in [0, 1), not {dropout}")
        self.encoder = encoder
        self.register_buffer("encoding", torch.zeros(encoder.tokens, encoder.width))
        self.norm_in, self.to_tokens = token_norm(encoder.width), nn.Linear(encoder.width, width)
        self.positions = nn.Parameter(torch.empty(encoder.tokens, width).normal_(std=0.01))
        self.blocks = nn.ModuleList(Block(width, num_heads, cross=True) for _ in range(depth))
        self.norm_out, self.to_out = token_norm(width), zero_init(nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    @torch.no_grad()
    def look_at(self, image: Tensor) -> None:
        """Keep the tokens of an image (C, H, W) in [-1, 1], of which the words will be."""
        self.encoding.copy_(self.encoder(image))

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the vectors of the style, (n, D), for the vectors of words that they begin as, (n, D)."""
        tokens = self.to_tokens(self.norm_in(self.encoding)) + self.positions  # (N, D)
        context, v = self.dropout(tokens)[None], vectors[None]  # (1, N, D), (1, n, D)
        for block in self.blocks:
            v = block(v, context=context)
        return vectors + self.to_out(self.dropout(self.norm_out(v)))[0]
