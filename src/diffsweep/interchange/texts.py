"""Conditions on texts as the parts of a pipeline of diffusers: a text encoder of transformers and its tokeniser."""

from dataclasses import dataclass
from typing import Any

from diffsweep.conditioning import Conditioning, T5TextEncoder, TextConditioning
from diffsweep.conditioning.pretrained_text import PretrainedTextEncoder
from diffsweep.errors import UserError


@dataclass(frozen=True)
class Texts:
    """A condition on texts, as the parts of a pipeline of diffusers that stand for it.

    Attributes:
        encoder: the text encoder, a model of transformers.
        tokenizer: its tokeniser, whose ``model_max_length`` is the number of tokens that texts are padded to.
        negative: the text that guidance leads away from; None for the network's null token.
        null_token: the network's null token, (D,) numbers, if the null condition is learned (with dropout).
        masks_padding: whether the network does not attend to padding.
        prompts: two texts for an example.
    """

    encoder: Any
    tokenizer: Any
    negative: str | None
    null_token: list[float] | None
    masks_padding: bool
    prompts: list[str]

    @property
    def width(self) -> int:
        """Return the number of channels of a token that the encoder gives."""
        return int(getattr(self.encoder.config, "hidden_size", 0) or self.encoder.config.d_model)


def texts_of(conditioning: Conditioning, backbone: Any) -> Texts | None:
    """Return the parts of a pipeline for a condition on texts; None for another condition.

    Args:
        conditioning: the condition of the model.
        backbone: its network, which holds the null token.

    Raises:
        UserError: the text encoder is none of transformers, or the pooled vector is used.
    """
    if not isinstance(conditioning, TextConditioning):
        return None
    encoder = conditioning.encoder
    if not isinstance(encoder, PretrainedTextEncoder):
        raise UserError(
            f"conditioning: {type(encoder).__name__}, the text encoder, is trained along and is none of transformers, "
            "which pipelines of diffusers need; train with conditioning=text_clip, or add format=safetensors"
        )
    if other := sorted(conditioning.sizes.keys() - {"context_dim"}):
        raise UserError(f"conditioning.{other[0]}: exported pipelines have the tokens of texts alone; set it to null")
    learned = not conditioning.null_is_text and conditioning.dropout > 0 and getattr(backbone, "context", None)
    source = encoder.pretrained
    return Texts(
        encoder=source.model.cpu().float(),
        tokenizer=source.tokenizer_of_length(encoder.max_length),
        negative=conditioning.negative,
        null_token=backbone.context.null.detach().float().cpu().tolist() if learned else None,
        masks_padding=isinstance(encoder, T5TextEncoder),
        prompts=(conditioning.prompts or ["a photo", "a drawing"])[:2],
    )
