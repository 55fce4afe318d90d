"""What a network makes of a condition: vectors, tokens to attend to, further channels."""

import torch
from torch import Tensor, nn

from diffsweep.diffusion import Condition
from diffsweep.layers.embeddings import SinusoidalEmbedding


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


class VectorEmbedding(nn.Module):
    """An MLP of features of a whole sample, with a learned embedding of samples that have none.

    Args:
        features: D of the features.
        dim: E.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(features, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.null = nn.Parameter(torch.zeros(dim))

    def forward(self, vector: Tensor | None, is_null: Tensor | None, batch: int) -> Tensor:
        """(B, E) of features (B, D), or of none for a batch of B; ``is_null`` (B,) marks the rows without."""
        if vector is None:
            return self.null.expand(batch, -1)
        embedded = self.mlp(vector.to(self.null.dtype))
        return embedded if is_null is None else torch.where(is_null[:, None], self.null, embedded)


class ScalarEmbedding(VectorEmbedding):
    """Sinusoids of each of some numbers, and an MLP of all of them: sizes and crops as in SDXL (arXiv:2307.01952).

    Args:
        count: S numbers of a sample.
        dim: E.
        frequencies: sinusoids of each number.
    """

    def __init__(self, count: int, dim: int, frequencies: int = 64) -> None:
        super().__init__(count * frequencies, dim)
        self.sinusoids = SinusoidalEmbedding(frequencies)

    def forward(self, vector: Tensor | None, is_null: Tensor | None, batch: int) -> Tensor:
        """(B, E) of numbers (B, S)."""
        if vector is not None:
            vector = self.sinusoids(vector.float().flatten()).unflatten(0, vector.shape).flatten(1)  # (B, S F)
        return super().forward(vector, is_null, batch)


class ConditionEmbedding(nn.Module):
    """What a condition says of a sample as a whole, as vectors that are added to the time embedding or stand beside it as tokens:
    its class, its features, its numbers, each where it has a size.

    Args:
        dim: E.
        num_classes: K classes of ``cond.vector``, where it is ids.
        vector_dim: D of ``cond.vector``, where it is features.
        num_scalars: S of ``cond.scalars``.
    """

    def __init__(
        self, dim: int, num_classes: int | None = None, vector_dim: int | None = None, num_scalars: int | None = None
    ) -> None:
        super().__init__()
        if num_classes is not None and vector_dim is not None:
            raise ValueError(
                "the condition's vector is either class ids or features: set backbone.num_classes or vector_dim"
            )
        self.classes = None if num_classes is None else ClassEmbedding(num_classes, dim)
        self.vector = None if vector_dim is None else VectorEmbedding(vector_dim, dim)
        self.scalars = None if num_scalars is None else ScalarEmbedding(num_scalars, dim)
        self.count = sum(part is not None for part in (self.classes, self.vector, self.scalars))

    def forward(self, cond: Condition, batch: int) -> list[Tensor]:
        """The vectors, each (B, E)."""
        parts = ((self.classes, cond.vector), (self.vector, cond.vector), (self.scalars, cond.scalars))
        return [embed(value, cond.is_null, batch) for embed, value in parts if embed is not None]


def with_image(x: Tensor, cond: Condition, channels: int) -> Tensor:
    """x (B, C, H, W) with the image of its condition as further channels, as in SR3 (arXiv:2104.07636) and Palette
    (arXiv:2111.05826); zeros where there is none."""
    if channels == 0:
        return x
    if cond.image is None:
        return torch.cat([x, x.new_zeros(len(x), channels, *x.shape[2:])], dim=1)
    image = cond.image.to(x.dtype)
    if cond.is_null is not None:
        image = torch.where(cond.is_null[:, None, None, None], 0.0, image)
    return torch.cat([x, image], dim=1)  # (B, C + channels, H, W)


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
