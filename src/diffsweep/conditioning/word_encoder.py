r"""A small text encoder that is trained jointly with the diffusion network, over a vocabulary of its own.

The token of word :math:`w_i` at position i starts as :math:`h_i = E[w_i] + P_i`, the sum of learned embeddings of the
word and of the position; transformer blocks then let the words of a text attend to one another. New words can be added
to a trained encoder: their vectors are :math:`E[w] = E[w_0] + \delta_w`, with a known word :math:`w_0` (or without one)
and learned :math:`\delta_w` (textual inversion, arXiv:2208.01618); or they follow from these by attention to an image
(:mod:`diffsweep.conditioning.style_attention`), and :math:`\delta_w` is not learned.
"""

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

from diffsweep.conditioning.style_attention import StyleAttention
from diffsweep.conditioning.text_encoder import Encoded, TextCache, TextEncoder, masked_mean
from diffsweep.layers import CrossAttention, mlp, send, token_norm
from diffsweep.words import WORD, words_of

CACHED_TEXTS = 2**16  # captions whose ids are kept, some hundred bytes each


class MaskedBlock(nn.Module):
    """A pre-norm transformer block: masked self-attention, then an MLP (arXiv:1706.03762, arXiv:2002.04745).

    ``forward`` takes tokens (B, L, C), which keep their shape, and a mask (B, 1, 1, L) that is True for the tokens that
    may be attended to.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = token_norm(channels), token_norm(channels)
        self.attention = CrossAttention(channels, heads)  # from the tokens to themselves; this class takes a mask
        self.mlp = mlp(channels, 4 * channels, channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm_attention(x)
        x = x + self.attention(h, h, mask)
        return x + self.mlp(self.norm_mlp(x))


class WordEncoder(TextEncoder):
    """A text encoder for captions of a few words: a bidirectional transformer over a small vocabulary.

    Each word is a token. Tokens are :math:`h_i = E[w_i] + P_i`, then ``depth`` pre-norm blocks and a last norm;
    ``pooled`` is the mean of a text's tokens. Nothing is downloaded: the encoder is trained jointly with the network
    that attends to it, as the text encoder of latent diffusion is (arXiv:2112.10752). Texts are read in lower case and
    without punctuation. Attention skips padding, whose tokens are 0.

    Args:
        vocabulary: every word that captions may have; datasets with captions provide it.
        width: D, the channels of a token.
        depth: the number of blocks.
        num_heads: the number of attention heads, which divides D.
        max_length: L, the most words that a text may have.
        new_words: words that are added to the vocabulary of a trained encoder, with weights of their own.
        vectors: the number of vectors, each a token, of a new word.
        initial: the known word w_0 as whose vector a new word begins; further vectors of it begin at random beside it.
            None: all begin at random.
        attention: the attention to an image of which the vectors of new words are made; None: they are weights.

    Raises:
        ValueError: in the constructor and in ``check``, for a setting or prompt that is not possible; in ``forward``,
            for a caption with a word that the vocabulary lacks, or with more than L words.
    """

    takes_new_words = True
    new_words: Tensor | None

    def __init__(
        self,
        vocabulary: Sequence[str] | None,
        width: int = 64,
        depth: int = 2,
        num_heads: int = 4,
        max_length: int = 16,
        new_words: Sequence[str] | None = None,
        vectors: int = 1,
        initial: str | None = None,
        attention: StyleAttention | None = None,
    ) -> None:
        super().__init__()
        if not vocabulary:
            raise ValueError(
                "conditioning.encoder.vocabulary is empty: text needs a dataset with captions, such as dataset=shapes, "
                "or files with metadata.jsonl, a .txt beside each image, or a column of texts"
            )
        for entry in vocabulary:
            if not WORD.fullmatch(entry):
                raise ValueError(f"conditioning.encoder.vocabulary has {entry!r}, which is not one word")
        if num_heads < 1 or width < 1 or width % num_heads:
            raise ValueError(
                f"conditioning.encoder.num_heads={num_heads} does not divide conditioning.context_dim={width}"
            )
        for key, value in (("depth", depth), ("max_length", max_length)):
            if value < 1:
                raise ValueError(f"conditioning.encoder.{key} must be at least 1, not {value}")
        self.width, self.max_length = width, max_length
        words = dict.fromkeys(entry.lower() for entry in vocabulary)
        known = {word: index for index, word in enumerate(words, start=1)}  # 0 is padding
        new = [word.lower() for word in new_words or ()]
        if twice := [word for word in new if word in known]:
            raise ValueError(f"concept.words: {twice[0]!r} is a word of this model already; use one that it lacks")
        if vectors < 1:
            raise ValueError(f"concept.vectors must be at least 1, not {vectors}")
        if initial is not None and initial not in known:
            near = difflib.get_close_matches(initial, known, n=1, cutoff=0)[0]
            raise ValueError(f"concept.initial={initial} is no word of this model; did you mean {near}?")
        first, self.initial = len(known) + 1, None if initial is None else known[initial]
        self.ids_of = {word: [index] for word, index in known.items()}
        self.ids_of |= {w: list(range(first + i * vectors, first + (i + 1) * vectors)) for i, w in enumerate(new)}
        self.embed_words = nn.Embedding(len(known) + 1, width, padding_idx=0)
        self.attention = attention
        start = torch.empty(len(new) * vectors, width) if new else None
        if attention is None:
            self.new_words = None if start is None else nn.Parameter(start)
        else:
            self.register_buffer("new_words", start)
        self.positions = nn.Parameter(torch.empty(max_length, width))
        self.blocks = nn.ModuleList(MaskedBlock(width, num_heads) for _ in range(depth))
        self.norm_out = token_norm(width)
        self._rows = TextCache(CACHED_TEXTS)
        with torch.no_grad():  # CLIP's initialisation (arXiv:2103.00020)
            self.embed_words.weight[1:].normal_(std=0.02)
            self.positions.normal_(std=0.01)
            if self.new_words is not None:
                self.new_words.normal_(std=0.02)
                if initial is not None:
                    self.new_words[::vectors] = 0

    def ids(self, text: str) -> list[int]:
        """Return the ids of the words of a text, from 1 to the size of the vocabulary; an empty list for an empty text.

        Raises:
            ValueError: the text has a word that the vocabulary lacks, more than L words, or characters but no word.
        """
        words = words_of(text)
        if not words and text.strip():
            raise ValueError(f"{text!r} has no words")
        if len(words) > self.max_length:
            raise ValueError(
                f"{text!r} has {len(words)} words, and the encoder takes {self.max_length}; "
                f"shorten it, or use conditioning.encoder.max_length={len(words)}"
            )
        for word in words:
            if word not in self.ids_of:
                near = difflib.get_close_matches(word, self.ids_of, n=1, cutoff=0.5)
                known = f"did you mean {near[0]}?" if near else f"words are {', '.join(self.ids_of)}"
                raise ValueError(f"{text!r}: the vocabulary has no word {word!r}; {known}")
        ids = [number for word in words for number in self.ids_of[word]]
        if len(ids) > self.max_length:
            raise ValueError(f"{text!r} has {len(ids)} vectors, and the encoder takes {self.max_length}; shorten it")
        return ids

    def _embedded(self, ids: Tensor) -> Tensor:
        """Return the vectors of words, (B, l, D), by their ids, (B, l)."""
        if self.new_words is None:
            return self.embed_words(ids)
        known = self.embed_words.weight
        new = self.new_words if self.initial is None else known[self.initial].detach() + self.new_words
        new = new if self.attention is None else self.attention(new)
        return embedding(ids, torch.cat([known, new]), padding_idx=0)

    def look_at(self, images: Tensor) -> None:
        if self.attention is not None:
            self.attention.look_at(images[0])

    def check(self, text: str) -> None:
        self.ids(text)

    def _row(self, text: str) -> Tensor:
        """Return the padded ids of a text, (L,), on the CPU, from the cache if the text came before."""
        if text not in self._rows:
            ids = self.ids(text)
            self._rows[text] = torch.tensor(ids + [0] * (self.max_length - len(ids)))
        return self._rows[text]

    def forward(self, texts: Sequence[str]) -> Encoded:
        rows = torch.stack([self._row(text) for text in texts])  # (B, L), on the CPU
        longest = max(1, int(rows.count_nonzero(1).max()))  # l: what is padding in all texts is not computed
        ids = send(rows[:, :longest].contiguous(), self.positions.device)  # (B, l)
        mask = ids > 0
        # A softmax over nothing is NaN, so an empty text attends to its first padding.
        attended = (mask | (torch.arange(longest, device=ids.device) == 0))[:, None, None]  # (B, 1, 1, l)
        h = self._embedded(ids) + self.positions[:longest]  # (B, l, D)
        for block in self.blocks:
            h = block(h, attended)
        tokens, rest = self.norm_out(h) * mask[..., None], self.max_length - longest  # (B, l, D)
        return Encoded(pad(tokens, (0, 0, 0, rest)), pad(mask, (0, rest)), masked_mean(tokens, mask))
