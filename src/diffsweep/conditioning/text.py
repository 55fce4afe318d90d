"""Conditions that are texts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffsweep.conditioning.base import Conditioning
from diffsweep.conditioning.text_encoder import TextEncoder
from diffsweep.datasets import Batch, Samples
from diffsweep.diffusion import Condition


class TextConditioning(Conditioning):
    """The caption of a sample: ``tokens`` (B, L, D) with their ``token_mask`` (B, L), and with ``vector_dim`` the pooled text as
    ``vector`` (B, D). A batch has ``caption``, a list of B texts; one that is empty is the null condition.

    Args:
        encoder: texts to tokens.
        context_dim: D, which is the encoder's width; backbones take it from here.
        prompts: what is asked of samples, in turn; None for the captions of the held-out samples, in their order.
        negative: a text that guidance leads away from, in place of the null condition.
        vector_dim: D too, for the pooled text beside the tokens; None for tokens alone.
        dropout: see :class:`Conditioning`.

    Raises:
        ValueError: a size is not the encoder's; a text is empty, or is none that the encoder takes.
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
            raise ValueError(f"conditioning.{key} has an empty text; say something, or use {otherwise}")
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

    def _captions(self, samples: Samples | None) -> Sequence[str]:
        if samples is None:
            raise ValueError(
                "samples are asked for the captions of held-out ones: set conditioning.prompts, or give a condition"
            )
        try:
            captions: Sequence[str] = samples["caption"]
        except KeyError:
            raise ValueError("this dataset has no captions to ask for; set conditioning.prompts") from None
        return captions
