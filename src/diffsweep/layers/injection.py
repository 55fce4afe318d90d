r"""Hooks on named blocks of a network, by which features of some rows of a batch are changed while it is evaluated.

Editing methods put the features f of a source image in the place of those of its edited version in some blocks l,

.. math:: f_l^{target} \leftarrow f_l^{source},

of which both are rows of one batch. For q and k, the queries and keys of an attention, this leaves the target the
source's attention maps softmax(q k^T) over its own values v.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from diffsweep.layers.modes import uncompiled

InjectedKind = Literal["residual", "self_attention", "cross_attention"]
Role = Literal["features", "queries", "keys", "values"]
FeatureEdit = Callable[[Tensor], None]


class FeaturePlace(NamedTuple):
    """A place in a network where features of one role are computed: the output of a module, or some of its channels.

    Attributes:
        role: ``features``, the output of the residual branch of a block; or ``queries``, ``keys`` or ``values`` of an
            attention.
        module: the module that computes them.
        part: number and count of equal parts into which the last axis of the output is cut, of which this is one:
            (1, 3) is the second of three; (0, 1) is the whole output.
    """

    role: Role
    module: nn.Module
    part: tuple[int, int] = (0, 1)

    def of(self, output: Tensor) -> Tensor:
        """Return the features as a view of the module's output, (B, ...)."""
        number, count = self.part
        if count == 1:
            return output
        size = output.shape[-1] // count
        return output[..., number * size : (number + 1) * size]


class Injectable(NamedTuple):
    """A part of a block of a network whose features can be changed by name.

    Attributes:
        block: the name of the block: the path of its module in the network, such as ``up.1``.
        kind: ``residual``, what the block adds to its input; ``self_attention``; or ``cross_attention`` to the tokens
            of a condition.
        features: the places where they are computed.
        decodes: whether the block is in the second half of the network, which makes the output from inner features.
    """

    block: str
    kind: InjectedKind
    features: tuple[FeaturePlace, ...]
    decodes: bool


class Attention(Protocol):
    """The interface of attention modules that name their queries, keys and values."""

    @property
    def projections(self) -> tuple[FeaturePlace, ...]:
        """Return the places of the queries, keys and values."""


def fused(module: nn.Module) -> tuple[FeaturePlace, ...]:
    """Return the places of queries, keys and values that one module computes, in this order on the last axis."""
    return (
        FeaturePlace("queries", module, (0, 3)),
        FeaturePlace("keys", module, (1, 3)),
        FeaturePlace("values", module, (2, 3)),
    )


def separate(to_q: nn.Module, to_kv: nn.Module) -> tuple[FeaturePlace, ...]:
    """Return the places of queries of a module of their own, and of keys and values that another one computes."""
    return FeaturePlace("queries", to_q), FeaturePlace("keys", to_kv, (0, 2)), FeaturePlace("values", to_kv, (1, 2))


def injectable_of(
    block: str,
    decodes: bool,
    residual: nn.Module,
    self_attentions: Sequence[Attention] = (),
    cross_attentions: Sequence[Attention] = (),
) -> list[Injectable]:
    """Return what can be changed in a block, by kind; kinds that the block does not have are left out.

    Args:
        block: the name of the block.
        decodes: whether the block is in the second half of the network.
        residual: the last module of the block's residual branch.
        self_attentions, cross_attentions: the attentions of the block.
    """
    kinds: list[tuple[InjectedKind, Sequence[Attention]]] = [
        ("self_attention", self_attentions),
        ("cross_attention", cross_attentions),
    ]
    found = [Injectable(block, "residual", (FeaturePlace("features", residual),), decodes)]
    for kind, attentions in kinds:
        if attentions:
            places = tuple(place for attention in attentions for place in attention.projections)
            found.append(Injectable(block, kind, places, decodes))
    return found


@runtime_checkable
class InjectableBlock(Protocol):
    """The interface of blocks whose features can be changed."""

    def injectable(self, name: str, decodes: bool) -> list[Injectable]:
        """Return what can be changed in the block, which has a name in its network: see :func:`injectable_of`."""


def injectable_in(path: str, blocks: nn.ModuleList, decodes_from: int | None = None) -> list[Injectable]:
    """Return what can be changed in the blocks of a list; modules that are no blocks, such as resampling, are left out.

    Args:
        path: the path of the list in the network; the block of number i has the name ``path.i``.
        blocks: the list.
        decodes_from: the number from which on blocks are in the second half of the network; None: none is.
    """
    end = len(blocks) if decodes_from is None else decodes_from
    named = [(i, block) for i, block in enumerate(blocks) if isinstance(block, InjectableBlock)]
    return [part for i, block in named for part in block.injectable(f"{path}.{i}", i >= end)]


@contextmanager
def edited(edits: Sequence[tuple[FeaturePlace, FeatureEdit]]) -> Iterator[None]:
    """Edit features of a network during a ``with`` block, by hooks that are removed at its end.

    A network that has been compiled is computed without its compiled code meanwhile, which has no such hooks.

    Args:
        edits: places in the network, each with a function that changes the features computed at that place, (B, ...),
            in memory. Those of one place are applied in order.
    """
    with ExitStack() as stack:
        stack.enter_context(uncompiled())
        for place, edit in edits:
            stack.callback(place.module.register_forward_hook(_hook(place, edit)).remove)
        yield


def _hook(place: FeaturePlace, edit: FeatureEdit) -> Callable[..., None]:
    def change(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        edit(place.of(output))

    return change
