r"""Conditioning on texts: c is a sequence of tokens :math:`h_1, \dots, h_L` of width D, the encoding of a caption.

The network attends to the tokens (cross-attention): each place x of a feature map adds
:math:`\sum_l \mathrm{softmax}_l(q(x) \cdot k(h_l) / \sqrt{d}) \, v(h_l)`, with queries, keys and values of d channels a
head. A pooled vector of the text may be added to the time embedding too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffsweep.conditioning.base import Conditioning
from diffsweep.conditioning.text_encoder import TextEncoder
from diffsweep.diffusion import Condition

if TYPE_CHECKING:  # it imports Lightning, which takes seconds
    from diffsweep.datasets import Batch, Samples


class TextConditioning(Conditioning):
    """A conditioning on the captions of samples, ``batch["caption"]``, a list of B texts.

    An empty text in a batch has the null condition. The condition has ``tokens`` (B, L, D), their ``token_mask`` (B, L)
    and, with ``vector_dim``, one ``vector`` (B, D) for the text.

    Args:
        encoder: the text encoder, which maps texts to tokens.
        context_dim: D, which must be the encoder's width; backbones take their size from here.
        prompts: the texts to draw samples for; sample i has ``prompts[i % len(prompts)]``. None for the captions of
            held-out samples, in their order.
        negative: a text that guidance leads away from, in place of the null condition.
        vector_dim: D again, to use the pooled vector of the text beside the tokens; None for tokens alone.
        dropout: the probability that a training sample has the null condition in place of its caption.

    Raises:
        ValueError: a size differs from the encoder's width, or ``prompts`` or ``negative`` has a text that is empty or
            that the encoder does not take.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        context_dim: int,
        prompts: Sequence[str] | None = None,
        negative: str | None = None,
        vector_dim: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dropout)
        sizes = {"context_dim": context_dim} | ({} if vector_dim is None else {"vector_dim": vector_dim})
        for key, size in sizes.items():
            if size != encoder.width:
                raise ValueError(
                    f"conditioning.{key} is {size}, and this text encoder is {encoder.width} wide; "
                    f"use conditioning.{key}={encoder.width}"
                )
        if prompts is not None and not prompts:
            raise ValueError(
                "conditioning.prompts is empty; give texts, or null for the captions of the held-out samples in turn"
            )
        self.encoder, self.sizes = encoder, sizes
        self.prompts, self.negative = None if prompts is None else list(prompts), negative
        for prompt in self.prompts or ():
            self._check("prompts", prompt, "null for the captions of the held-out samples in turn")
        if negative is not None:
            self._check("negative", negative, "null for the null condition")

    def _check(self, key: str, text: str, otherwise: str) -> None:
        if not text.strip():
            raise ValueError(f"conditioning.{key} has an empty text; write one, or use {otherwise}")
        try:
            self.encoder.check(text)
        except ValueError as error:
            raise ValueError(f"conditioning.{key}: {error}") from error

    def condition(self, batch: Batch) -> Condition:
        texts: Sequence[str] = batch["caption"]
        tokens, mask, pooled = self.encoder(texts)
        cond = Condition(vector=pooled if "vector_dim" in self.sizes else None, tokens=tokens, token_mask=mask)
        empty = [not text.strip() for text in texts]
        return cond.null(torch.tensor(empty, device=tokens.device)) if any(empty) else cond

    def request(self, indices: Tensor, samples: Samples | None) -> Batch:
        texts = self._captions(samples) if self.prompts is None else self.prompts
        request: Batch = {"caption": [texts[index % len(texts)] for index in indices.tolist()]}
        if self.negative is not None:
            request["negative"] = {"caption": [self.negative] * len(indices)}
        return request

    def described(self, request: Batch) -> list[str]:
        return list(request["caption"])

    def _captions(self, samples: Samples | None) -> Sequence[str]:
        if samples is None:
            raise ValueError(
                "samples are drawn for the captions of held-out ones: set conditioning.prompts, or give a condition"
            )
        try:
            captions: Sequence[str] = samples["caption"]
        except KeyError:
            raise ValueError("this dataset has no captions to draw samples for; set conditioning.prompts") from None
        return captions
