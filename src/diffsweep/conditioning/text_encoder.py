"""What text encoders share: texts to tokens that a network attends to."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Encoded(NamedTuple):
    """Texts as tensors.

    Attributes:
        tokens: (B, L, D), 0 where no token stands.
        mask: True where a token counts, (B, L).
        pooled: one vector of each text, (B, D).
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


class TextEncoder(nn.Module, ABC):
    """``tokens, mask, pooled = encoder(texts)``.

    L is the same for every batch, so that conditions can be joined to one batch, and shapes never change while training.

    Attributes:
        width: D.
        max_length: L.
    """

    width: int
    max_length: int

    @abstractmethod
    def check(self, text: str) -> None:
        """Whether a text that somebody typed can be encoded as it stands.

        Raises:
            ValueError: it cannot; the message says why, and what can.
        """

    @abstractmethod
    def forward(self, texts: Sequence[str]) -> Encoded:
        """A text is encoded as the same whatever the others are. An empty one may have no token that counts."""


class TextCache(dict[str, Tensor]):
    """What was computed of texts before; of more than ``limit`` the oldest are forgotten."""

    limit: float = float("inf")  # while it is unpickled, which sets the items first

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def __setitem__(self, text: str, value: Tensor) -> None:
        if len(self) >= self.limit and text not in self:
            del self[next(iter(self))]
        super().__setitem__(text, value)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """The mean (B, D) of the tokens (B, L, D) that count; 0 where none does."""
    return (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
