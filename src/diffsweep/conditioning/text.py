r"""Conditioning on texts: c is a sequence of tokens :math:`h_1, \dots, h_L` of width D, the encoding of a caption.

The network attends to the tokens (cross-attention): each place x of a feature map adds
:math:`\sum_l \mathrm{softmax}_l(q(x) \cdot k(h_l) / \sqrt{d}) \, v(h_l)`, with queries, keys and values of d channels a
head. A pooled vector of the text may be added to the time embedding too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from diffsweep.conditioning.base import Conditioning
from diffsweep.conditioning.text_encoder import TextEncoder
from diffsweep.diffusion import Condition

if TYPE_CHECKING:  # it imports Lightning, which takes seconds
    from diffsweep.datasets import Batch, Samples


class TextConditioning(Conditioning):
    """A conditioning on the captions of samples, ``batch["caption"]``, a list of B texts.

    An empty text in a batch has the null condition: the network's learned null token, or with
    ``null_condition=empty_text`` the encoding of the empty text, as in Stable Diffusion. The condition has ``tokens``
    (B, L, D), their ``token_mask`` (B, L) and, with ``vector_dim``, one ``vector`` (B, D) for the text.

    Args:
        encoder: the text encoder, which maps texts to tokens.
        context_dim: D, which must be the encoder's width; backbones take their size from here.
        prompts: the texts to draw samples for; sample i has ``prompts[i % len(prompts)]``. None for the captions of
            held-out samples, in their order.
        negative: a text that guidance leads away from, in place of the null condition.
        vector_dim: D again, to use the pooled vector of the text beside the tokens; None for tokens alone.
        dropout: the probability that a training sample has the null condition in place of its caption.
        null_condition: ``learned`` or ``empty_text``. It stays learned where the encoder gives the
            empty text no tokens.

    Raises:
        ValueError: ``null_condition`` has another value, a size differs from the encoder's width, or ``prompts`` or
            ``negative`` has a text that is empty or that the encoder does not take.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        context_dim: int,
        prompts: Sequence[str] | None = None,
        negative: str | None = None,
        vector_dim: int | None = None,
        dropout: float = 0.0,
        null_condition: Literal["learned", "empty_text"] = "learned",
    ) -> None:
        super().__init__(dropout)
        if null_condition not in ("learned", "empty_text"):
            raise ValueError(f"conditioning.null_condition is learned or empty_text, not {null_condition}")
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
        self.prompts = None if prompts is None else list(prompts)
        self.null_is_text = null_condition == "empty_text"
        self.negative = "" if negative is None and self.null_is_text else negative
        for prompt in self.prompts or ():
            self._check("prompts", prompt, "null for the captions of the held-out samples in turn")
        if negative is not None:
            self._check("negative", negative, "null for the null condition")

    @property
    def provides(self) -> frozenset[str]:  # type: ignore[override]
        """The capabilities of a conditioning with these sizes, and ``new_words`` if the encoder takes some."""
        return super().provides | ({"new_words"} if self.encoder.takes_new_words else set())

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
        if self.null_is_text:
            return cond
        empty = [not text.strip() for text in texts]
        return cond.null(torch.tensor(empty, device=tokens.device)) if any(empty) else cond

    def without(self, cond: Condition, rows: Tensor) -> Condition:
        if not self.null_is_text:
            return super().without(cond, rows)
        tokens, mask, pooled = self.encoder([""])
        assert cond.tokens is not None  # as condition() makes it
        assert cond.token_mask is not None
        vector = None if cond.vector is None else torch.where(rows[:, None], pooled.to(cond.vector), cond.vector)
        return replace(
            cond,
            tokens=torch.where(rows[:, None, None], tokens.to(cond.tokens), cond.tokens),
            token_mask=torch.where(rows[:, None], mask, cond.token_mask),
            vector=vector,
        )

    def request(self, indices: Tensor, samples: Samples | None) -> Batch:
        texts = self._captions(samples) if self.prompts is None else self.prompts
        request: Batch = {"caption": [texts[index % len(texts)] for index in indices.tolist()]}
        if self.negative is not None:
            request["negative"] = {"caption": [self.negative] * len(indices)}
        return request

    def requested(self, values: Sequence[Any]) -> Batch:
        for value in values:
            self.encoder.check(str(value))
        return {"caption": [str(value) for value in values]}

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
