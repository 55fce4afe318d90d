"""What all networks share: what they tell the rest of the package of themselves, and the checks of their options."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from torch import nn

from diffsweep.capabilities import Part
from diffsweep.layers import rotary_channels


class Backbone(nn.Module, Part):
    """A network, ``output = backbone(x, c_noise, cond)``.

    Attributes:
        requires, supports: ``clips`` where x is a clip, (B, C, F, H, W), and not an image, (B, C, H, W).
        accepts: the parts of a condition that it takes, with their sizes.
        Options: the dataclass of the keywords that its constructor takes as ``**options``; None where it names all of them itself.
    """

    accepts: Mapping[str, int] = MappingProxyType({})
    Options: ClassVar[type[Any] | None] = None


@dataclass(frozen=True, kw_only=True)
class ConditionSizes:
    """The sizes of the parts of a condition.

    Attributes:
        num_classes: classes of ``cond.vector``, where it is ids; None for none.
        vector_dim: features of ``cond.vector``, where it is features; None for none.
        num_scalars: numbers of ``cond.scalars``; None for none.
        image_channels: channels of ``cond.image``, which stand beside those of x; 0 for no image.
    """

    num_classes: int | None = None
    vector_dim: int | None = None
    num_scalars: int | None = None
    image_channels: int = 0

    def __post_init__(self) -> None:
        at_least_1(**self.of_vectors)

    @property
    def of_vectors(self) -> dict[str, int | None]:
        """The sizes of what is said of a sample as a whole."""
        return {"num_classes": self.num_classes, "vector_dim": self.vector_dim, "num_scalars": self.num_scalars}

    @property
    def accepts(self) -> dict[str, int]:
        """The parts that are there, with their sizes."""
        sizes = {**self.of_vectors, "image_channels": self.image_channels}
        return {name: size for name, size in sizes.items() if size}


@dataclass(frozen=True, kw_only=True)
class TokenSizes(ConditionSizes):
    """The same with tokens to attend to.

    Attributes:
        context_dim: width of ``cond.tokens``; None for no tokens.
    """

    context_dim: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_1(context_dim=self.context_dim)

    @property
    def accepts(self) -> dict[str, int]:
        tokens = {} if self.context_dim is None else {"context_dim": self.context_dim}
        return super().accepts | tokens


@dataclass(frozen=True, kw_only=True)
class TransformerOptions:
    """Blocks over patches of the image.

    Attributes:
        patch_size: side of a patch.
        channels: width of the tokens.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLPs over ``channels``.
        qk_norm: RMSNorm of queries and keys.
        rope: rotary positions in the attention too.
        swiglu: SwiGLU in place of GELU.
        rms_norm: RMSNorm in place of LayerNorm.
        checkpointing: compute blocks again in the backward pass instead of keeping what they computed.
    """

    patch_size: int = 2
    channels: int = 96
    depth: int = 4
    num_heads: int = 4
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    rope: bool = False
    swiglu: bool = False
    rms_norm: bool = False
    checkpointing: bool = False

    @property
    def block(self) -> dict[str, Any]:
        """The keywords of a :class:`~diffsweep.layers.Block`."""
        return {
            "channels": self.channels,
            "heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "qk_norm": self.qk_norm,
            "swiglu": self.swiglu,
            "rms_norm": self.rms_norm,
        }

    @property
    def rotary(self) -> int | None:
        """The channels of a head that rotary positions turn; None without these."""
        return rotary_channels(self.channels, self.num_heads) if self.rope else None


def one_of(key: str, value: str, allowed: Collection[str]) -> None:
    """Raise a ValueError unless an option is one of some words."""
    if value not in allowed:
        raise ValueError(f"backbone.{key} is one of {', '.join(allowed)}, not {value}")


def at_least_1(**values: int | None) -> None:
    """Raise a ValueError unless each option, by its key, is at least 1 or None."""
    for key, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"backbone.{key} must be at least 1, not {value}")
