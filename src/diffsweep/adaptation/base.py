r"""The base class of adaptations, which start a run from a trained model and change it.

The trained model is the *base*, with weights :math:`\theta_0` (their moving average, if its run has one). A model that
is adapted from it starts with :math:`\theta = \theta_0`, may get new weights :math:`\phi`, and trains some of
:math:`\theta` and all of :math:`\phi`. The others are frozen: they stay those of the base.
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from diffsweep.errors import UserError
from diffsweep.layers import weights_hash
from diffsweep.models import Model
from diffsweep.models.borrowed import Borrowed

ALL = ("*",)  # the patterns of all weights


class Adaptation(Borrowed[Model], ABC):
    """A change of a model that starts it from the weights of a trained one, its base; subclasses define :meth:`change`.

    Called with a model, it copies the weights of the base into it, lets the subclass change it, and freezes what does
    not train. Weights of the model that the base lacks are new; they keep their values and train. The base is loaded
    from its own run; it is no submodule of the model.

    Args:
        base: returns the base.
        run: the directory of the base's run, for messages.
        weights: the hash of the weights of the base that the model was adapted from; None: it is not known yet.
        train: patterns of the names of those weights of the base that train, such as ``denoiser.backbone.middle.*``.
        whole: whether checkpoints have the frozen weights too, so that the adapted model can be loaded without its
            base.

    Attributes:
        requires_pixels: whether training needs the images themselves, even if diffusion is in latents.
    """

    requires_pixels = False
    provides = frozenset({"base"})

    def __init__(
        self,
        base: Callable[[], Model],
        run: str | None = None,
        weights: str | None = None,
        train: Sequence[str] = ALL,
        whole: bool = False,
    ) -> None:
        super().__init__(base)
        self.run, self.weights, self.train, self.whole = run, weights, tuple(train), whole

    def __call__(self, model: Model, start: bool = True) -> None:
        """Start a model from the base and change it, in place.

        Args:
            model: the model as its configuration describes it.
            start: False for a model that gets all of its weights from a checkpoint, for which no base is loaded and
                nothing is frozen.

        Raises:
            UserError: the weights of the base are not those that ``weights`` states, the base is of another network, or
                a pattern of ``train`` fits no weight.
        """
        frozen = self._start(model) if start else set()
        self.change(model)
        given = {name for name, weight in model.named_parameters() if id(weight) in frozen}
        for name, weight in model.named_parameters():
            if name in given:
                weight.requires_grad_(False)
        if not model.trained_parameters():
            raise UserError("adaptation.train leaves no weight that trains; give patterns such as ['*.middle.*']")
        model.adaptation, model.given = self, frozenset() if self.whole else frozenset(given)

    @abstractmethod
    def change(self, model: Model) -> None:
        """Change a model that has the weights of the base, in place: subclasses define it, such as by new layers.

        Args:
            model: the model. Its own parameters must stay the same objects, even where their names change.
        """

    def plain(self, model: Model) -> Mapping[str, Tensor]:
        """Return the weights of an adapted model under the names that a model without this adaptation has.

        From these a further run can start. A subclass whose change of the model has other names overrides it.

        Args:
            model: the adapted model.
        """
        return model.state_dict()

    def merge(self, model: Model) -> None:
        """Merge what was added to an adapted model into its other weights, in place, where that is possible.

        The model then has the structure and outputs of one without the adaptation, whose weights are :meth:`plain`.
        Here, where nothing can be merged, it stays as it is.

        Args:
            model: the adapted model, which does not train any more.
        """

    def identify(self) -> str:
        """Return the hash of the base's weights.

        Raises:
            UserError: the model was adapted from other weights.
        """
        found = weights_hash(self.base)
        if self.weights is not None and found != self.weights:
            raise UserError(
                f"adaptation.run={self.run} has other weights ({found[:12]}) than the run was adapted from "
                f"({self.weights[:12]}); give the directory of that run"
            )
        return found

    def described(self, model: Model) -> str:
        """Return in words which share of the weights of an adapted model trains, in which of its parts.

        Args:
            model: the adapted model.
        """
        every, trained = _counts(model.named_parameters()), _counts(_trained(model))
        count, total = sum(trained.values()), sum(every.values())
        parts = [f"{part} ({trained[part]:,} of {every[part]:,})" for part in every if part in trained]
        frozen = [part for part in every if part not in trained]
        words = f"trains {count:,} of {total:,} parameters ({count / total:.1%}): {', '.join(parts)}"
        return words + (f"; frozen: {', '.join(frozen)}" if frozen else "")

    def _start(self, model: Model) -> set[int]:
        """Copy the weights of the base into a model, and return the identities of those that will be frozen."""
        source = plain_weights(self.base)
        own = model.state_dict()
        if difference := first_difference(own, source):
            raise UserError(f"adaptation.run={self.run}: {difference}; leave model, backbone and conditioning out")
        with torch.no_grad():
            for name, weight in source.items():
                own[name].copy_(weight)
        known = {name: weight for name, weight in model.named_parameters() if name in source}
        trained = matched(self.train, known, "adaptation.train")
        return {id(weight) for name, weight in known.items() if name not in trained}


def has_all_weights(settings: Mapping[str, Any]) -> bool:
    """Return whether checkpoints of a run have all weights of its model, so that its base is not needed to load it.

    Args:
        settings: the run's group ``adaptation``; one that adapts nothing is such, too.
    """
    train = settings.get("train")
    return "base" not in settings or bool(settings.get("whole")) or (train is not None and tuple(train) == ALL)


def own_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings of a group ``adaptation`` that not all of its options have, on which samples may depend.

    Args:
        settings: the group; empty, or without a base, if nothing is adapted; then no setting is left.
    """
    shared = ("_target_", "base", "run", "weights", "train", "whole")
    return {name: value for name, value in settings.items() if "base" in settings and name not in shared}


def plain_weights(model: Model) -> Mapping[str, Tensor]:
    """Return the weights of a model under the names that it has without an adaptation."""
    return model.state_dict() if model.adaptation is None else model.adaptation.plain(model)


def first_difference(own: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> str | None:
    """Return in words the first weight of a base that a model cannot take; None if it takes all of them.

    Args:
        own: the weights of the model.
        source: those of the base.
    """
    for name, weight in source.items():
        if name not in own:
            return f"its weight {name} is none of this model"
        if own[name].shape != weight.shape:
            shapes = (" x ".join(map(str, one.shape)) for one in (weight, own[name]))
            return "its weight {} is {}, and that of this model {}".format(name, *shapes)
    return None


def matched(patterns: Sequence[str], names: Iterable[str], key: str) -> set[str]:
    """Return those names that one of the patterns fits, with ``*`` for any text.

    Args:
        patterns: such as ``*.to_qkv.*``.
        names: the names of weights or modules.
        key: the key of the configuration that has the patterns, for the message.

    Raises:
        UserError: a pattern fits no name.
    """
    names, found = list(names), set()
    for pattern in patterns:
        fitting = {name for name in names if fnmatchcase(name, pattern)}
        if not fitting:
            near = difflib.get_close_matches(pattern, names, n=1, cutoff=0)
            raise UserError(f"{key}: {pattern} fits none of {len(names)} names, such as {', '.join(near)}")
        found |= fitting
    return found


def _trained(model: Model) -> Iterable[tuple[str, Tensor]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def _counts(weights: Iterable[tuple[str, Tensor]]) -> dict[str, int]:
    """Return the numbers of parameters by the first two parts of their names, such as ``denoiser.backbone``."""
    counts: dict[str, int] = {}
    for name, weight in weights:
        part = ".".join(name.split(".")[:2])
        counts[part] = counts.get(part, 0) + weight.numel()
    return counts
