r"""Injections: what an edited image takes from its source inside the network, and at which times.

The source and its edited version, the target, are evaluated in one batch. In chosen blocks l and at times t from an
option ``until`` up, features of the source replace those of the target, :math:`f_l^{target} \leftarrow f_l^{source}`.
Residual features hold where things are (Plug-and-Play, Tumanyan et al. 2023, arXiv:2211.12572). Queries q and keys k of
an attention give the target the source's attention maps, :math:`\mathrm{softmax}(q k^T / \sqrt d)`, in self-attention
(Plug-and-Play) or in the cross-attention to a text (Prompt-to-Prompt, Hertz et al. 2022, arXiv:2208.01626).
"""

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from diffsweep.layers import FeaturePlace, Injectable
from diffsweep.layers.injection import FeatureEdit, InjectedKind, Role


class TokenIds(Protocol):
    """The interface of text encoders that injections by words use: the ids of the tokens of a text."""

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text's tokens in their positions."""

    def ids_of_words(self, words: str) -> list[int]:
        """Return the ids of the tokens that stand for some words within a text."""


class Injection:
    """Features of a source that replace those of its edited versions in some blocks of a network, at times t >= until.

    Subclasses choose the kind of features.

    Args:
        blocks: the names of the blocks; None for those that :meth:`default` chooses.
        until: the lowest time, in [0, 1], at which features are replaced; 1 is the beginning of sampling.

    Attributes:
        key: the configuration key of the injection in a task, for messages.

    Raises:
        ValueError: ``until`` is not in [0, 1], or ``blocks`` is empty.
    """

    kind: ClassVar[InjectedKind]
    roles: ClassVar[tuple[Role, ...]]
    key: ClassVar[str]

    def __init__(self, blocks: Sequence[str] | None = None, until: float = 0.0) -> None:
        if not 0 <= until <= 1:
            raise ValueError(f"task.{self.key}.until is a time in [0, 1], not {until}")
        if blocks is not None and not blocks:
            raise ValueError(f"task.{self.key}.blocks is empty; name blocks, or task.{self.key}=null for no injection")
        self.blocks, self.until = blocks, until

    def default(self, decoder: Sequence[Injectable]) -> Sequence[Injectable]:
        """Return the blocks that are used if none are named: here all of the decoder.

        Args:
            decoder: the blocks of the second half of the network that have the kind of features, in order; those of
                all the network if its second half has none.
        """
        return decoder

    def chosen(self, injectable: Sequence[Injectable]) -> Sequence[Injectable]:
        """Return the places of a network at which features are replaced.

        Args:
            injectable: what can be changed in the network.

        Raises:
            ValueError: the network has no features of this kind, or no block of a given name; the message names the
                nearest and all that it has.
        """
        found = {each.block: each for each in injectable if each.kind == self.kind}
        if not found:
            words = self.kind.replace("_", "-")
            raise ValueError(
                f"task.{self.key}: this network has no block with {words} features; use task.{self.key}=null"
            )
        if self.blocks is None:
            every = list(found.values())
            return self.default([each for each in every if each.decodes] or every)
        for name in self.blocks:
            if name not in found:
                near = difflib.get_close_matches(name, found, n=1, cutoff=0.5)
                known = f"did you mean {near[0]}? it has" if near else "it has"
                raise ValueError(f"task.{self.key}.blocks: no block {name}; {known} {', '.join(found)}")
        return [found[name] for name in self.blocks]

    def for_texts(self, source: Sequence[str], target: Sequence[str], encoder: TokenIds) -> "Injection":
        """Return the injection for a batch of texts; here itself, since it does not depend on texts.

        Args:
            source: the text of each of B sources.
            target: the text of each of their B targets.
            encoder: the encoder of the texts.
        """
        return self

    def check_texts(self, target: Sequence[str], encoder: TokenIds) -> None:
        """Raise a ValueError if the injection names words that no target text has; here it names none."""
        return

    def edits(self, injectable: Sequence[Injectable], groups: int) -> Iterator[tuple[FeaturePlace, FeatureEdit]]:
        """Yield the changes of features, each with its place, for a batch of one group of sources and some of targets.

        Args:
            injectable: what can be changed in the network.
            groups: the number of groups of rows. The first group are the sources. The others are their targets, in the
                same order: those with their condition, then those with the null or the negative one, if any.
        """
        for each in self.chosen(injectable):
            for place in each.features:
                if place.role in self.roles:
                    yield place, self.edit(place.role, groups)

    def edit(self, role: Role, groups: int) -> FeatureEdit:
        """Return the change of features of one role, (groups B, ...): here those of all targets become the source's."""

        def replace(features: Tensor) -> None:
            source, *targets = grouped(features, groups)
            for target in targets:
                target.copy_(source)

        return replace


class ResidualFeatures(Injection):
    """The residual features of a decoder block: what it adds to its skip connection (arXiv:2211.12572, section 4.1).

    By default they are of the block at a third of the decoder, as the fourth of eleven in the paper.
    """

    kind, roles, key = "residual", ("features",), "features"

    def default(self, decoder: Sequence[Injectable]) -> Sequence[Injectable]:
        return [decoder[len(decoder) // 3]]


class SelfAttentionMaps(Injection):
    """The maps of self-attention, by queries and keys (arXiv:2211.12572, section 4.2); by default of the decoder."""

    kind, roles, key = "self_attention", ("queries", "keys"), "self_attention"


class CrossAttentionMaps(Injection):
    r"""The maps of cross-attention to the words of a text, for the words that two texts share (arXiv:2208.01626).

    The target has the source's queries. Its keys are the source's for each token that is in both texts, and for tokens
    that were swapped one for one; tokens that were added have their own keys ("refinement"). With weights, the map of a
    word of the target's text is multiplied by a number c, as its values times c ("re-weighting"). Targets with the null
    condition, of classifier-free guidance, are left as they are.

    Deliberate difference: the paper puts single columns of the maps in place, so that the weights of a place no longer
    sum to 1 where tokens were added. Here keys are put in place, and the softmax is over all tokens of the target.

    Args:
        blocks, until: as in :class:`Injection`; by default all blocks of the decoder.
        weights: factors by words of the target's text, such as ``{red: 2}``; None for none.

    Raises:
        ValueError: as in :class:`Injection`.
    """

    kind, roles, key = "cross_attention", ("queries", "keys", "values"), "cross_attention"

    def __init__(
        self, blocks: Sequence[str] | None = None, until: float = 0.0, weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(blocks, until)
        self.weights = dict(weights or {})
        self._source_of: list[Tensor] = []  # of each row: the source's position for each token of the target, or -1
        self._factors: list[Tensor] = []  # of each row: a factor for each token of the target

    def for_texts(self, source: Sequence[str], target: Sequence[str], encoder: TokenIds) -> "CrossAttentionMaps":
        bound, pairs = copy.copy(self), list(zip(source, target, strict=True))
        bound._source_of = [aligned(encoder.ids(one), encoder.ids(other)) for one, other in pairs]
        bound._factors = [self._factors_of(encoder, text) for text in target]
        return bound

    def check_texts(self, target: Sequence[str], encoder: TokenIds) -> None:
        for words in self.weights:
            if not any(spans(encoder.ids(text), encoder.ids_of_words(words)) for text in target):
                raise ValueError(
                    f"task.{self.key}.weights: {words!r} is in no target text; texts are such as {target[0]!r}"
                )

    def _factors_of(self, encoder: TokenIds, text: str) -> Tensor:
        ids = encoder.ids(text)
        factors = torch.ones(len(ids))
        for words, factor in self.weights.items():
            for begin, end in spans(ids, encoder.ids_of_words(words)):
                factors[begin:end] = factor
        return factors

    def edit(self, role: Role, groups: int) -> FeatureEdit:
        change = {"queries": self._swap_queries, "keys": self._swap_keys, "values": self._weigh}[role]

        def edit_conditional(features: Tensor) -> None:
            source, target, *_ = grouped(features, groups)
            change(source, target)

        return edit_conditional

    def _swap_queries(self, source: Tensor, target: Tensor) -> None:
        target.copy_(source)

    def _swap_keys(self, source: Tensor, target: Tensor) -> None:
        for row, positions in enumerate(self._source_of):
            to = (positions >= 0).nonzero()[:, 0].to(source.device)
            target[row, to] = source[row, positions[positions >= 0].to(source.device)]

    def _weigh(self, source: Tensor, target: Tensor) -> None:
        for row, factors in enumerate(self._factors if self.weights else ()):
            target[row, : len(factors)] *= factors.to(target)[:, None]


def grouped(features: Tensor, groups: int) -> list[Tensor]:
    """Return the rows of features (groups B, ...) as views of B rows each, which can be changed in memory."""
    count = len(features) // groups
    return [features[i * count : (i + 1) * count] for i in range(groups)]


def aligned(source: Sequence[int], target: Sequence[int]) -> Tensor:
    """Return for each token of a text the position of the token of another text that it corresponds to; -1 for none.

    Equal runs of tokens correspond, and so do runs of equally many tokens that replace each other.

    Args:
        source: the ids of the other text's tokens.
        target: the ids of the text's tokens, (L,).

    Returns:
        int64, (L,).
    """
    positions = torch.full((len(target),), -1)
    for tag, a, b, c, d in difflib.SequenceMatcher(None, source, target, autojunk=False).get_opcodes():
        if tag == "equal" or (tag == "replace" and b - a == d - c):
            positions[c:d] = torch.arange(a, b)
    return positions


def spans(ids: Sequence[int], part: Sequence[int]) -> list[tuple[int, int]]:
    """Return where a sequence of ids contains another, as pairs of the first position and the one after the last."""
    ids, part = list(ids), list(part)
    return [(i, i + len(part)) for i in range(len(ids) - len(part) + 1) if part and ids[i : i + len(part)] == part]


def active(injections: Sequence[Injection], t: Tensor) -> list[Injection]:
    """Return the injections that act at a time t, or at the highest of several times."""
    time = float(t.max())
    return [each for each in injections if time >= each.until]
