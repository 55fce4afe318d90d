"""The base class of text encoders, which map a text to a sequence of tokens h in R^(L x D) that a network attends to.

A text with n < L tokens is padded to L; the mask m in {0, 1}^L marks the tokens that count. The pooled vector of a
text, in R^D, is the mean of those, sum_l m_l h_l / sum_l m_l, or another summary that the encoder defines.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn


class Encoded(NamedTuple):
    """The encoding of B texts by a text encoder.

    Attributes:
        tokens: the sequences of tokens, (B, L, D); 0 where the mask is False.
        mask: True for tokens that are attended to, (B, L).
        pooled: one vector for each text, (B, D).
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


class TextEncoder(nn.Module, ABC):
    """A text encoder: ``tokens, mask, pooled = encoder(texts)`` for a list of B texts; subclasses define it.

    The length L is the same in every batch, so that conditions can be joined to one batch and shapes never change in
    training.

    Attributes:
        width: D, the channels of a token.
        max_length: L, the number of tokens that every text is padded to.
        takes_new_words: whether words can be added to a trained encoder.
    """

    takes_new_words = False

    width: int
    max_length: int

    @abstractmethod
    def check(self, text: str) -> None:
        """Raise a ValueError unless the encoder takes the text as a prompt; the message names what is wrong with it.

        Subclasses define which texts they take, such as those of at most L tokens.
        """

    @abstractmethod
    def ids(self, text: str) -> list[int]:
        """Return the ids of the tokens of a text, special ones and padding that is attended to included.

        Token i is at position i of the encoding, so that positions of two texts can be compared; subclasses define it.
        """

    def ids_of_words(self, words: str) -> list[int]:
        """Return the ids of the tokens that stand for some words within a text, without special ones."""
        return self.ids(words)

    def look_at(self, images: Tensor) -> None:
        """Take from images (N, C, H, W) in [-1, 1] what new words need of them; by default nothing.

        It is called before a training that learns new words from these images.
        """
        return None

    @abstractmethod
    def forward(self, texts: Sequence[str]) -> Encoded:
        """Return the encoding of each text, which does not depend on the others; an empty text may have no tokens.

        Subclasses define it, and whether a caption of data that is too long is cut or raises a ValueError.
        """


class TextCache(dict[str, Tensor]):
    """A dictionary of tensors by text that holds at most ``limit``: one more replaces the one that was added first."""

    limit: float = float("inf")  # unpickling sets the items before the limit

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def __setitem__(self, text: str, value: Tensor) -> None:
        if len(self) >= self.limit and text not in self:
            del self[next(iter(self))]
        super().__setitem__(text, value)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (B, D) of those tokens (B, L, D) where the mask (B, L) is True; 0 for a text without any."""
    return (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
