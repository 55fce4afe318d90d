"""Embeddings of times, classes and tokens."""

import functools
import math

import torch
from torch import Tensor, nn


@functools.lru_cache(maxsize=16)
def _frequencies(count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    place = torch.device("cpu") if device.type == "mps" else device  # which has no float64
    omega = torch.exp(-math.log(10000) * torch.arange(count, dtype=torch.float64, device=place) / count)
    return omega.to(device, dtype)


class SinusoidalEmbedding(nn.Module):
    r""":math:`[\cos(\omega_i c), \sin(\omega_i c)]`, :math:`\omega_i = 10000^{-i / (D/2)}` (arXiv:1706.03762; the order of guided-diffusion).

    The frequencies are no buffer: casting a network to bfloat16 must not round them.

    Args:
        dim: D, even.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"a sinusoidal embedding needs an even size, not {dim}")
        self.count = dim // 2

    def forward(self, c_noise: Tensor) -> Tensor:
        angle = c_noise[:, None] * _frequencies(self.count, c_noise.device, c_noise.dtype)  # (B, D / 2)
        return torch.cat([angle.cos(), angle.sin()], dim=-1)  # (B, D)


class ClassEmbedding(nn.Embedding):
    """An embedding of class ids, with one row more, the last: the null class, of samples whose class is not told.

    Args:
        num_classes: K; ids are 0 to K - 1.
        dim: D.
    """

    def __init__(self, num_classes: int, dim: int) -> None:
        if num_classes < 1:
            raise ValueError(f"backbone.num_classes must be at least 1, or null for none, not {num_classes}")
        super().__init__(num_classes + 1, dim)

    def forward(self, ids: Tensor | None, is_null: Tensor | None, batch: int) -> Tensor:  # type: ignore[override]
        """(B, D) of ids (B,), or of none for a batch of B; ``is_null`` (B,) marks the rows without a class."""
        if ids is None:
            return self.weight[-1].expand(batch, -1)
        return super().forward(ids if is_null is None else torch.where(is_null, len(self.weight) - 1, ids))


class TokenContext(nn.Module):
    """Tokens to attend to, with a learned null token in place of all tokens of a sample of which none counts.

    To attend to L copies of a token is to attend to that token, so no row is ever empty, and a mask is needed only where
    the tokens come with one.

    Args:
        dim: D.
        once: the null token is seen once, not L times; where other tokens stand beside these, that differs.
    """

    def __init__(self, dim: int, once: bool = False) -> None:
        super().__init__()
        self.null, self.once = nn.Parameter(torch.randn(dim) / dim**0.5), once

    def forward(
        self, tokens: Tensor | None, token_mask: Tensor | None, is_null: Tensor | None, batch: int
    ) -> tuple[Tensor, Tensor | None]:
        """The context (B, L, D), and the mask for SDPA, (B, 1, 1, L), True where a token counts.

        Args:
            tokens: (B, L, D); None for no tokens at all.
            token_mask: True where a token counts, (B, L); None where all do.
            is_null: True for the samples without tokens, (B,); None where all have theirs.
            batch: B.
        """
        if tokens is None:
            return self.null.expand(batch, 1, -1), None
        tokens, mask = tokens.to(self.null.dtype), None
        if token_mask is not None:
            empty = ~token_mask.any(dim=1)
            is_null = empty if is_null is None else is_null | empty
            mask = token_mask | is_null[:, None]
        if is_null is not None:
            if self.once:
                others = torch.arange(tokens.shape[1], device=tokens.device) > 0
                hidden = is_null[:, None] & others
                mask = ~hidden if mask is None else mask & ~hidden
            tokens = torch.where(is_null[:, None, None], self.null, tokens)
        return tokens, None if mask is None else mask[:, None, None]
