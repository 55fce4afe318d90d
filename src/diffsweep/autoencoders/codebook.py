"""Codebooks of vector quantisation, and how their codes are learned (van den Oord et al. 2017, arXiv:1711.00937).

A vector h is replaced by the nearest of K codes,

    q(h) = e_k,    k = argmin_j |h - e_j|^2,

and the gradient of q(h) is passed to h unchanged (straight-through). The commitment term |h - sg[e_k]|^2 (sg: no
gradient) keeps h near its code. The codes are moving averages of the vectors that are nearest to them, or parameters
that are trained by |sg[h] - e_k|^2.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.layers import distributed

EPSILON = 1e-5  # of the Laplace smoothing of counts, as in the public code of arXiv:1711.00937
_AT_ONCE = 2**24  # distances that are held at once


class Quantised(NamedTuple):
    """The result of replacing latents by codes of a codebook.

    Attributes:
        h: the nearest codes, (B, D, H, W), in the place of the latents; a gradient with respect to ``h`` passes to the
            latents unchanged (straight-through).
        codes: the indices of the codes, int64 (B, H, W).
        terms: terms of the loss by name, of each sample, (B,): means over the numbers of a latent.
    """

    h: Tensor
    codes: Tensor
    terms: dict[str, Tensor]


class Codebook(nn.Module, ABC):
    """A table of K codes of D numbers, which counts the use of each code in training and revives unused ones.

    A code is dead if the moving average of its uses per step is at most ``revive_below`` times its value under even
    use, which is the number of vectors over K. A dead code is replaced by a randomly chosen vector of the current
    batch, and its count by that of even use (random restarts, Dhariwal et al. 2020, arXiv:2005.00341; Zeghidour et al.
    2021, arXiv:2107.03312). Before the first training step all codes are unused, so that all of them are initialised
    from the first batch. Subclasses define how the codes learn.

    Args:
        num_codes: K.
        channels: D.
        decay: gamma of the moving averages a, gamma a + (1 - gamma) a_new in each step.
        revive_below: share of even use up to which a code is dead; with 0 only the first step replaces codes.

    Attributes:
        names: names of the terms of the loss.
        embedding: the codes, (K, D).
        usage: moving average of the number of vectors per step, over all ranks, that each code is nearest to, (K,);
            exactly 0 marks a code that has never been used.
    """

    names: tuple[str, ...] = ("commitment",)
    embedding: Tensor
    usage: Tensor

    def __init__(self, num_codes: int, channels: int, decay: float, revive_below: float) -> None:
        super().__init__()
        self.decay, self.revive_below = decay, revive_below
        self.register_buffer("usage", torch.zeros(num_codes))

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """Return the index of the code nearest to each vector (N, D) in Euclidean distance, int64 (N,).

        At most 2^24 distances are held in memory at once.
        """
        rows = max(1, _AT_ONCE // len(self.embedding))
        with torch.autocast(vectors.device.type, enabled=False):
            # |h - e|^2 / 2 is |e|^2 / 2 - h e, up to a term that is the same for all codes
            halves = 0.5 * self.embedding.square().sum(1)
            distances = (torch.addmm(halves, part, self.embedding.T, alpha=-1) for part in vectors.split(rows))
            return torch.cat([part.argmin(1) for part in distances])

    def quantise(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest codes of latents h (B, D, H, W), of the same shape, and their indices, int64 (B, H, W).

        Nothing is learned or counted, and no gradient passes to h.
        """
        codes = self.nearest(self._vectors(h)).view(h.shape[0], *h.shape[2:])
        return rearrange(functional.embedding(codes, self.embedding), "b h w d -> b d h w"), codes

    def forward(self, h: Tensor) -> Quantised:
        """Return latents h (B, D, H, W) replaced by their nearest codes, with the terms of the loss.

        In training mode, codes that are no longer used are revived before the latents are replaced; afterwards the
        uses of the codes are counted and the codes are updated.
        """
        vectors = self._vectors(h)  # (B H W, D)
        if self.training:
            self._revive(vectors)
        nearest, codes = self.quantise(h)
        terms = self.terms(h, nearest)
        if self.training:
            self._count(vectors, codes.flatten())
        return Quantised(h + (nearest - h).detach(), codes, terms)

    def _vectors(self, h: Tensor) -> Tensor:
        return rearrange(h.detach(), "b d h w -> (b h w) d").to(self.embedding.dtype)

    def terms(self, h: Tensor, nearest: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss by name, each (B,): ``commitment``, the mean of (h - sg[e])^2 for the encoder.

        Args:
            h: latents, (B, D, H, W).
            nearest: their codes e, of the same shape, through which this term passes no gradient (sg).
        """
        return {"commitment": (h - nearest.detach()).square().flatten(1).mean(1)}

    @abstractmethod
    def _learn(self, summed: Tensor) -> None:
        """Update the codes from the sums of the vectors of each code and their counts, over all ranks, (K, D + 1)."""

    def _replace(self, dead: Tensor, codes: Tensor) -> None:
        """Replace the codes where ``dead`` (K, 1) is True by ``codes`` (K, D); their ``usage`` has been set before."""
        self.embedding.copy_(torch.where(dead, codes, self.embedding))

    @torch.no_grad()
    def _revive(self, vectors: Tensor) -> None:
        # computed even if no code is dead, since a test for it would wait for the device
        num_codes, count = len(self.usage), len(vectors)
        rows = torch.randperm(count, device=vectors.device)[:num_codes]
        if count < num_codes:
            rows = torch.randint(count, (num_codes,), device=vectors.device)
        candidates = vectors[rows]  # (K, D)
        even_use = count / num_codes
        if distributed():
            torch.distributed.broadcast(candidates, 0)
            even_use *= torch.distributed.get_world_size()
        dead = self.usage <= self.revive_below * even_use
        self.usage.masked_fill_(dead, even_use)
        self._replace(dead[:, None], candidates)

    @torch.no_grad()
    def _count(self, vectors: Tensor, codes: Tensor) -> None:
        counted = torch.cat([vectors, vectors.new_ones(len(vectors), 1)], dim=1)
        summed = vectors.new_zeros(len(self.usage), counted.shape[1]).index_add_(0, codes, counted)  # (K, D + 1)
        if distributed():
            torch.distributed.all_reduce(summed)
        # above 0, which marks a code that has never been used
        self.usage.lerp_(summed[:, -1], 1 - self.decay).clamp_(min=torch.finfo(self.usage.dtype).tiny)
        self._learn(summed)


class EMACodebook(Codebook):
    r"""A codebook whose codes are moving averages of the vectors nearest to them (arXiv:1711.00937, appendix A.1).

    In each training step, with the vectors :math:`h_{ij}` (:math:`n_i` of them) that code i is nearest to,

    .. math:: N_i \leftarrow \gamma N_i + (1 - \gamma) n_i, \quad
       m_i \leftarrow \gamma m_i + (1 - \gamma) \sum_j h_{ij}, \quad
       e_i = m_i / \tilde N_i, \quad \tilde N_i = N \frac{N_i + \epsilon}{N + K \epsilon}, \quad N = \sum_i N_i,

    with :math:`\epsilon = 10^{-5}`. The codes :math:`e_i` are buffers, not parameters of an optimizer.

    Args: those of :class:`Codebook`, of which ``decay`` is :math:`\gamma`.

    Attributes:
        sums: the :math:`m_i`, (K, D).
    """

    sums: Tensor

    def __init__(self, num_codes: int, channels: int, decay: float, revive_below: float) -> None:
        super().__init__(num_codes, channels, decay, revive_below)
        self.register_buffer("embedding", torch.randn(num_codes, channels))
        self.register_buffer("sums", torch.zeros(num_codes, channels))

    def _learn(self, summed: Tensor) -> None:
        self.sums.lerp_(summed[:, :-1], 1 - self.decay)
        total = self.usage.sum()
        smoothed = (self.usage + EPSILON) / (total + len(self.usage) * EPSILON) * total
        self.embedding.copy_(self.sums / smoothed[:, None])

    def _replace(self, dead: Tensor, codes: Tensor) -> None:
        super()._replace(dead, codes)
        self.sums.copy_(torch.where(dead, codes * self.usage[:, None], self.sums))


class GradientCodebook(Codebook):
    r"""A codebook whose codes are parameters, trained by a term of the loss, ``codebook`` (arXiv:1711.00937, eq. 3).

    The term is the mean of :math:`(\mathrm{sg}[h] - e)^2` over the numbers of a latent, in which sg stops the gradient.
    The moving averages only count the uses of the codes here.

    Args: those of :class:`Codebook`.
    """

    names = ("codebook", "commitment")

    def __init__(self, num_codes: int, channels: int, decay: float, revive_below: float) -> None:
        super().__init__(num_codes, channels, decay, revive_below)
        self.embedding = nn.Parameter(torch.randn(num_codes, channels))

    def terms(self, h: Tensor, nearest: Tensor) -> dict[str, Tensor]:
        codebook = (h.detach() - nearest).square().flatten(1).mean(1)
        return {"codebook": codebook, **super().terms(h, nearest)}

    def _learn(self, summed: Tensor) -> None:
        """Do nothing, since the codes are trained by gradients."""
