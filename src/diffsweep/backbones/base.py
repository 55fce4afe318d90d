"""The base class of networks, groups of options that several networks have, and checks of options."""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from diffsweep.capabilities import Part
from diffsweep.diffusion import Condition
from diffsweep.layers import FirstHalf, Injectable, added_by, rotary_channels


class Reuse(NamedTuple):
    """A request to a network to return its deep features, or to reuse those of an earlier call.

    A network that gets it as ``backbone(x, c_noise, cond, reuse=Reuse(branch))`` returns its output and the features, a
    tensor whose form is its own. With ``Reuse(branch, features)`` it computes the outer blocks alone, and takes the
    features in the place of those that the inner blocks would compute. It is an argument of the call, not a method,
    since compilation and the hooks of a module act on its calls.

    Attributes:
        branch: the number b >= 1 of blocks at either end of the network that every call computes: the first b and the
            last b. From :attr:`Backbone.branches` on these are all blocks.
        features: the features of an earlier call with inputs of the same shape and the same branch; None: everything is
            computed.
    """

    branch: int
    features: Tensor | None = None


class Backbone(nn.Module, Part):
    """A network that is called as ``output = backbone(x, c_noise, cond)``, with an output of the height and width of x.

    x are images (B, C, H, W) or clips (B, C, F, H, W), ``c_noise`` the times as the network reads them, (B,) or for
    each frame (B, F), and ``cond`` a :class:`~diffsweep.diffusion.Condition` or None.

    Attributes:
        requires, supports: names of capabilities; both contain ``clips`` if the network reads clips and not images, and
            ``supports`` contains ``aspect_ratios`` if x can be of other sizes than a square of ``image_size``,
            ``control`` if control networks can be added, and ``cached_features`` if a call takes a :class:`Reuse`.
        provides: contains ``equal_blocks`` if the network has them.
        controls: the control networks (:class:`~diffsweep.layers.ControlBranch`) whose outputs are added to features of
            the network; none at first.
        accepts: the parts of a condition that the network reads, with their sizes, such as ``{"num_classes": 10}``.
        Options: the dataclass of the constructor's ``**options``; None if its signature names all of them.
    """

    accepts: Mapping[str, int] = MappingProxyType({})
    Options: ClassVar[type[Any] | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.controls = nn.ModuleList()

    @property
    def side_multiple(self) -> int:
        """What must divide H and W of x: here 1, any size can be given; subclasses of patches override it."""
        return 1

    @property
    def branches(self) -> int:
        """The least ``branch`` of :class:`Reuse` with which every call computes everything; 1: nothing can be reused.

        Networks that support ``cached_features`` override it.
        """
        return 1

    def reused(self, reuse: Reuse | None) -> Reuse | None:
        """Return a request as it is, but None for one with which every call computes everything."""
        return None if reuse is None or reuse.branch >= self.branches else reuse

    def copied_half(self, blocks: int | None = None) -> FirstHalf:
        """Return a copy of the network's first half, with its weights, to be trained as a control network.

        Networks that support ``control`` override it; here a ValueError is raised. The copy's parameters require
        gradients, also where those of the network do not.

        Args:
            blocks: the number of blocks that are copied, of a network of equal blocks; None for half of them.

        Raises:
            ValueError: the network cannot be controlled, or ``blocks`` is not possible.
        """
        raise ValueError(f"{type(self).__name__} has no first half that can be copied; use backbone=unet or dit")

    def equal_blocks(self) -> Sequence[nn.Module]:
        """Return the blocks of one structure, or of two, and of one shape of input, which are compiled as one.

        Networks that provide ``equal_blocks`` override it; here the result is empty.
        """
        return ()

    def in_turn(self) -> list[nn.Module]:
        """Return the parts that run one after the other, each called as a whole: those of the lists of the network.

        Where weights are sharded, those of one such part at a time are gathered.
        """
        lists = [part for part in self.children() if isinstance(part, nn.ModuleList) and part is not self.controls]
        return [part for each in lists for part in each if any(True for _ in part.parameters())]

    def added(self, x: Tensor, c_noise: Tensor, cond: Condition) -> list[Tensor]:
        """Return what the control networks add to the features of the first half; an empty list for nothing.

        Args:
            x, c_noise, cond: the arguments of the network.
        """
        return added_by(self.controls, x, c_noise, cond) if len(self.controls) else []

    def injectable(self) -> Sequence[Injectable]:
        """Return the parts of blocks, in the order in which they run, whose features can be changed by their names.

        Networks with named blocks override it; here the result is empty. Methods that edit images put the features of
        one image in the place of another's: see :class:`~diffsweep.guidance.Injected`.
        """
        return ()


@dataclass(frozen=True, kw_only=True)
class ConditionSizes:
    """The sizes of the parts of a :class:`~diffsweep.diffusion.Condition` ``cond`` that a network reads.

    Attributes:
        num_classes: number of classes if ``cond.vector`` holds class ids; None: it does not.
        vector_dim: size of ``cond.vector`` if it holds features; None: it does not.
        num_scalars: number of values in ``cond.scalars``; None: these are not read.
        image_channels: channels of ``cond.image``, which are concatenated with those of x; 0: it is not read.

    Raises:
        ValueError: a size is below 1, or ``image_channels`` below 0.
    """

    num_classes: int | None = None
    vector_dim: int | None = None
    num_scalars: int | None = None
    image_channels: int = 0

    def __post_init__(self) -> None:
        at_least_1(**self.of_vectors)
        if self.image_channels < 0:
            raise ValueError(f"backbone.image_channels must be at least 0, not {self.image_channels}")

    @property
    def of_vectors(self) -> dict[str, int | None]:
        """The sizes of the parts that become embedding vectors, by name; None for a part that is not read.

        They are arguments of :class:`~diffsweep.layers.ConditionEmbedding`.
        """
        return {"num_classes": self.num_classes, "vector_dim": self.vector_dim, "num_scalars": self.num_scalars}

    @property
    def accepts(self) -> dict[str, int]:
        """The sizes of the parts that the network reads, by the names of the fields; other parts are left out."""
        sizes = {**self.of_vectors, "image_channels": self.image_channels}
        return {name: size for name, size in sizes.items() if size}


@dataclass(frozen=True, kw_only=True)
class TokenSizes(ConditionSizes):
    """The sizes of the parts of a condition, for networks that also have cross-attention to its tokens.

    Attributes:
        context_dim: width of ``cond.tokens``; None: these are not read.
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
    """The options that the transformers over patches of an image have in common.

    Attributes:
        patch_size: side of a patch in pixels.
        channels: width of the tokens.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLPs divided by ``channels``.
        qk_norm: RMSNorm of queries and keys.
        rope: add rotary positions to the attention (arXiv:2104.09864).
        swiglu: SwiGLU in place of the MLPs with GELU.
        rms_norm: RMSNorm in place of LayerNorm.
        checkpointing: recompute the activations of blocks in the backward pass to save memory (arXiv:1604.06174).
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
        """The arguments of a :class:`~diffsweep.layers.Block`, by name, that these options set."""
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
        """The number of channels of an attention head if ``rope`` is set, else None.

        Raises:
            ValueError: rotary positions cannot rotate heads of this size, which must be a multiple of 4.
        """
        return rotary_channels(self.channels, self.num_heads) if self.rope else None


def copied_without(network: nn.Module, *parts: str) -> nn.Module:
    """Return a copy of a network without some of its parts and without control networks; its parameters are trained.

    Args:
        network: the network, which is left as it is.
        parts: names of its direct submodules that the copy does not have.
    """
    left_out = {getattr(network, name) for name in (*parts, "controls")}
    copied = copy.deepcopy(network, {id(module): None for module in left_out})  # what is left out is not copied
    return copied.requires_grad_(True)


def one_of(key: str, value: str, allowed: Collection[str], group: str = "backbone") -> None:
    """Raise a ValueError unless the value of the option ``{group}.{key}`` is one of the allowed ones."""
    if value not in allowed:
        raise ValueError(f"{group}.{key} is one of {', '.join(allowed)}, not {value}")


def at_least_1(**values: int | None) -> None:
    """Raise a ValueError unless each of the options ``backbone.{key}``, given by key, is None or at least 1."""
    for key, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"backbone.{key} must be at least 1, not {value}")
