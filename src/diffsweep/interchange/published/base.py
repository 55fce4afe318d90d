"""The forms in which authors publish weights, as maps from the parameters of our networks to theirs.

A form names for each parameter of a network of ours the tensors of the file that it is made of, and how. The tensors of
a file must all be used, and all parameters must be found: the keys that are left over on either side are an error.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from diffsweep.errors import UserError
from diffsweep.layers.named_weights import Convert, Origin, assembled, joined, of_layer

Tensors = Mapping[str, Tensor]
SHOWN = 3  # keys that an error names
CONTAINERS = ("ema", "ema_state_dict", "state_dict", "model")  # where training states keep weights, the best first


NamedOrigin = tuple[str, Origin]
Origins = dict[str, Origin]


def of_heads(heads: int, order: str) -> Convert:
    """Return the conversion of the weight or bias of a layer that computes queries, keys and values.

    Args:
        heads: the number of attention heads.
        order: how the published network orders the outputs, as in einops: ``n three d`` is the head, then query, key
            or value, then the channel of the head. Ours are in the order ``three n d``.
    """

    def convert(parts: Sequence[Tensor]) -> Tensor:
        value = joined(parts)
        return rearrange(value.reshape(len(value), -1), f"({order}) r -> (three n d) r", three=3, n=heads)

    return convert


def with_null_class(rows: int) -> Convert:
    """Return the conversion of an embedding of classes, which gets a last row of zeros if it has no null class.

    Args:
        rows: the rows of our embedding: the classes and the null class.
    """

    def convert(parts: Sequence[Tensor]) -> Tensor:
        value = joined(parts)
        return torch.cat([value, value.new_zeros(1, value.shape[1])]) if len(value) == rows - 1 else value

    return convert


class Form(ABC):
    """A form of published weights; subclasses define which parameters of the file each parameter of ours is made of.

    Attributes:
        name: what a user types to choose the form.
        published: which published files have it, for messages.
        networks: the classes of our networks that it can be loaded into.
        signature: patterns of keys, each of which some key of a file of this form matches.
        ignored: patterns of keys that are not needed, such as tables that our network computes.
        options: options of our network that do not show in shapes, with the values that the published networks have.
        requires: keys of the configuration and the values with which the published networks are meant; a run of their
            weights must have them.
        beside: whether it is a part that a file has beside the network, and is loaded along with it.
    """

    name: ClassVar[str]
    published: ClassVar[str]
    networks: ClassVar[tuple[type[nn.Module], ...]]
    signature: ClassVar[tuple[str, ...]]
    ignored: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[Mapping[str, Any]] = {}
    requires: ClassVar[Mapping[str, Any]] = {}
    beside: ClassVar[bool] = False

    @abstractmethod
    def sources(self, network: nn.Module, weights: Tensors) -> Origins:
        """Return what the parameters of a network are made of, by their names or by those of their layers.

        Subclasses define it. A layer's name stands for all of its parameters.

        Args:
            network: a network of one of the classes ``networks``.
            weights: the tensors of the file.

        Raises:
            UserError: the published networks cannot be expressed by our network; the message has the reason.
        """

    def weights_of(self, content: Any) -> Tensors | None:
        """Return the weights in the content of a file, an average of them if it has one; None if it has none."""
        return tensors_of(content)

    def matches(self, weights: Tensors) -> bool:
        """Return whether the keys of a file are those of this form."""
        return all(any(re.search(pattern, key) for key in weights) for pattern in self.signature)

    def groups_of(self, channels: int) -> int | None:
        """Return the groups of a norm of so many channels in the published networks; None: as many as ours has."""
        return None

    def is_uncertain(self, network: nn.Module) -> bool:
        """Return whether another form with the same keys would give this network other weights."""
        return False

    def own(self, network: nn.Module) -> set[str]:
        """Return the names of parameters of ours that published networks lack and that keep their initial values."""
        return set()

    def converted(self, network: nn.Module, weights: Tensors, file: str) -> dict[str, Tensor]:
        """Return the weights of a file under the names of our network, in float32.

        Args:
            network: the network that they are for.
            weights: the tensors of the file by name.
            file: the name of the file, for messages.

        Raises:
            UserError: keys or shapes do not fit; the message is one line with the first keys and their count.
        """
        self._check_options(network, file)
        sources, own = self.sources(network, weights), self.own(network)
        made = assembled(network.state_dict(), weights, lambda name: of_layer(name, sources), own)
        rest = [key for key in made.unused if not any(re.search(pattern, key) for pattern in self.ignored)]
        misfits = [
            f"{' '.join(f'{key} {shape}' for key, shape in zip(misfit.names, misfit.shapes, strict=True))} where "
            f"{misfit.name} is {misfit.expected}"
            for misfit in made.misfits
        ]
        if problems := [
            f"{what} {_few(keys)}"
            for what, keys in (("it lacks", made.lacking), ("it also has", rest), ("it has", misfits))
            if keys
        ]:
            raise UserError(
                f"{file} has the form {self.name}, but not the sizes of this backbone: {'; '.join(problems)}"
            )
        return made.found

    def _check_options(self, network: nn.Module, file: str) -> None:
        """Raise a UserError if an option of our network, which does not show in shapes, differs from the published."""
        options = getattr(network, "options", None)
        for key, value in self.options.items():
            if options is not None and getattr(options, key) != value:
                raise UserError(
                    f"{file}: networks of the form {self.name} have backbone.{key}={value}, not {getattr(options, key)}"
                )
        norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
        if wrong := [norm for norm in norms if self.groups_of(norm.num_channels) not in (None, norm.num_groups)]:
            width, groups = wrong[0].num_channels, wrong[0].num_groups
            raise UserError(
                f"{file}: norms of {width} channels have {self.groups_of(width)} groups in the form {self.name}, and "
                f"{groups} here, where a group has at least 4 channels and norm_groups is the largest number of groups"
            )


def _few(keys: Sequence[str]) -> str:
    more = f", ... ({len(keys)} in all)" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more


def tensors_of(content: Any) -> Tensors | None:
    """Return the state dict in the content of a file, with averaged weights if it has them; None without weights.

    A prefix ``module.`` of all keys, which wrappers of several devices leave, is removed.
    """
    if not isinstance(content, Mapping):
        return None
    for part in [*(content.get(key) for key in CONTAINERS), content]:
        if isinstance(part, Mapping) and part and all(isinstance(value, Tensor) for value in part.values()):
            return without_prefix(part, "module.")
    return None


def without_prefix(weights: Tensors, prefix: str) -> Tensors:
    """Return weights with a prefix of their keys removed, if all keys have it; otherwise the weights themselves."""
    if not all(key.startswith(prefix) for key in weights):
        return weights
    return {key.removeprefix(prefix): value for key, value in weights.items()}


def under(weights: Tensors, prefix: str) -> Tensors:
    """Return the weights whose keys begin with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def names_of(forms: Iterable[Form]) -> str:
    """Return the names of forms with the files that they stand for, for messages."""
    return ", ".join(f"form={form.name} ({form.published})" for form in forms)
