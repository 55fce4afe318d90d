"""Modules that turn the parts of a condition into inputs of a network.

A class, a feature vector or plain numbers become embedding vectors (B, E); token sequences become a context for
cross-attention; an image becomes further channels beside x. In each of them the rows of a batch that have no condition
(``is_null``) get a learned null embedding, or zeros for images: classifier-free guidance trains and samples with both.
"""

import torch
from torch import Tensor, nn

from diffsweep.diffusion import Condition
from diffsweep.layers.embeddings import SinusoidalEmbedding


class ClassEmbedding(nn.Embedding):
    """A learned embedding of class ids, with one more row, the last, for the null class of samples without a class.

    Args:
        num_classes: K; ids are 0 to K - 1.
        dim: size D of the embedding.

    Raises:
        ValueError: ``num_classes`` is below 1.
    """

    def __init__(self, num_classes: int, dim: int) -> None:
        if num_classes < 1:
            raise ValueError(f"backbone.num_classes must be at least 1, or null for none, not {num_classes}")
        super().__init__(num_classes + 1, dim)

    def forward(self, ids: Tensor | None, is_null: Tensor | None, batch: int) -> Tensor:  # type: ignore[override]
        """Return the embeddings of class ids, (B, D); those of the null class for samples without a class.

        Args:
            ids: int64, (B,); None: no sample has a class.
            is_null: True for the rows without a class, (B,), whatever their id; None: all rows have one.
            batch: B.
        """
        if ids is None:
            return self.weight[-1].expand(batch, -1)
        return super().forward(ids if is_null is None else torch.where(is_null, len(self.weight) - 1, ids))


class VectorEmbedding(nn.Module):
    """An MLP that embeds a feature vector of each sample, with a learned null embedding for samples without one.

    Args:
        features: size D of the feature vector.
        dim: size E of the embedding.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(features, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.null = nn.Parameter(torch.zeros(dim))

    def forward(self, vector: Tensor | None, is_null: Tensor | None, batch: int) -> Tensor:
        """Return the embeddings of feature vectors, (B, E); the null embedding for samples without features.

        Args:
            vector: features, (B, D); None: no sample has any.
            is_null: True for the rows without features, (B,), whatever their vector; None: all rows have them.
            batch: B.
        """
        if vector is None:
            return self.null.expand(batch, -1)
        embedded = self.mlp(vector.to(self.null.dtype))
        return embedded if is_null is None else torch.where(is_null[:, None], self.null, embedded)


class ScalarEmbedding(VectorEmbedding):
    """An MLP of sinusoids of S numbers of each sample, such as the sizes and crops in SDXL (arXiv:2307.01952).

    Samples without numbers have a learned null embedding.

    Args:
        count: S, the numbers of a sample.
        dim: size E of the embedding.
        frequencies: size F of the sinusoidal embedding of each number, even; the MLP reads all S F values.
    """

    def __init__(self, count: int, dim: int, frequencies: int = 64) -> None:
        super().__init__(count * frequencies, dim)
        self.sinusoids = SinusoidalEmbedding(frequencies)

    def forward(self, vector: Tensor | None, is_null: Tensor | None, batch: int) -> Tensor:
        """Return the embeddings of the samples' numbers, (B, E); the null embedding for samples without numbers.

        Args:
            vector: the numbers, (B, S); None: no sample has any.
            is_null: True for the rows without numbers, (B,); None: all rows have them.
            batch: B.
        """
        if vector is not None:
            vector = self.sinusoids(vector.float().flatten()).unflatten(0, vector.shape).flatten(1)  # (B, S F)
        return super().forward(vector, is_null, batch)


class ConditionEmbedding(nn.Module):
    """The embeddings of a sample's class or feature vector, and of its numbers: one vector of size E for each.

    Each is embedded only if its size is given here. A network adds the vectors to its time embedding, or uses them as
    tokens beside it. ``cond`` is the :class:`~diffsweep.diffusion.Condition` of a batch, the argument of ``forward``.

    Args:
        dim: size E of each embedding.
        num_classes: number of classes if ``cond.vector`` holds class ids; None: it does not.
        vector_dim: size D of ``cond.vector`` if it holds features; None: it does not.
        num_scalars: number S of ``cond.scalars``; None: these are not used.

    Attributes:
        count: number of vectors that ``forward`` returns, 0 to 2.

    Raises:
        ValueError: both ``num_classes`` and ``vector_dim`` are given.
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
        """Return the embeddings of the class or features, then of the numbers: a list of ``count`` tensors (B, E).

        Args:
            cond: the conditions of the samples; its parts that are None, and its rows of ``null_rows``, have null
                embeddings.
            batch: B.
        """
        of_vector, of_scalars = (cond.vector, cond.null_rows("vector")), (cond.scalars, cond.null_rows("scalars"))
        parts = ((self.classes, of_vector), (self.vector, of_vector), (self.scalars, of_scalars))
        return [embed(value, is_null, batch) for embed, (value, is_null) in parts if embed is not None]


def with_image(x: Tensor, cond: Condition, channels: int) -> Tensor:
    """Return x with the image of its condition as further channels (SR3, arXiv:2104.07636; Palette, arXiv:2111.05826).

    These channels are 0 for samples without an image: all, if ``cond.image`` is None, or those of ``cond.null_rows``.

    Args:
        x: (B, C, H, W).
        cond: its ``image`` is (B, channels, H, W), or None.
        channels: channels of the image; 0: x is returned as it is.

    Returns:
        (B, C + channels, H, W).
    """
    if channels == 0:
        return x
    if cond.image is None:
        return torch.cat([x, x.new_zeros(len(x), channels, *x.shape[2:])], dim=1)
    image = cond.image.to(x.dtype)
    if (is_null := cond.null_rows("image")) is not None:
        image = torch.where(is_null[:, None, None, None], 0.0, image)
    return torch.cat([x, image], dim=1)  # (B, C + channels, H, W)


class TokenContext(nn.Module):
    """The context of cross-attention: the tokens of each sample, or a learned null token for samples without any.

    The null token takes the place of all L tokens of such a sample. Attention to L copies of one token equals attention
    to that token alone, so no softmax is over an empty set, and a mask is needed only if the tokens come with one.

    Args:
        dim: width D of the tokens.
        once: mask all copies of the null token but the first. The copies would otherwise count L times where a caller
            appends further tokens to the context.
    """

    def __init__(self, dim: int, once: bool = False) -> None:
        super().__init__()
        self.null, self.once = nn.Parameter(torch.randn(dim) / dim**0.5), once

    def forward(
        self, tokens: Tensor | None, token_mask: Tensor | None, is_null: Tensor | None, batch: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return the context, and the mask of the tokens that may be attended to.

        Args:
            tokens: (B, L, D); None: no sample has tokens.
            token_mask: False for padding, (B, L); None: no token is padding. Samples of nothing but padding have the
                null token too.
            is_null: True for the samples without tokens, (B,); None: all samples have them.
            batch: B.

        Returns:
            The context (B, L, D), (B, 1, D) if ``tokens`` is None; and the mask (B, 1, 1, L), True where attention is
            allowed, as ``scaled_dot_product_attention`` takes it, or None if all of it is.
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
                after_first = torch.arange(tokens.shape[1], device=tokens.device) > 0
                hidden = is_null[:, None] & after_first
                mask = ~hidden if mask is None else mask & ~hidden
            tokens = torch.where(is_null[:, None, None], self.null, tokens)
        return tokens, None if mask is None else mask[:, None, None]
