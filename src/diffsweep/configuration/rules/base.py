"""Define the parts that rules read, collect rules by decorators, and apply them."""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from lightning import Callback
from omegaconf import DictConfig
from torch import nn

from diffsweep.adaptation import Adaptation
from diffsweep.autoencoders import AdversarialLoss, Autoencoder, Perceptual
from diffsweep.backbones import Execution, FeatureCache
from diffsweep.conditioning import Conditioning
from diffsweep.datasets import Concept, ImageData
from diffsweep.diffusion import ClipNoise, Discretisation, Objective, Prediction, Preference, TimeSampling, Weighting
from diffsweep.discovery import import_all, is_of
from diffsweep.errors import LeftOut, UserError
from diffsweep.guidance import Guidance
from diffsweep.metrics import GenerationMetrics, Likelihood
from diffsweep.models import Comparisons, LowerStage, Model, Scorer, Teacher
from diffsweep.samplers import Sampler
from diffsweep.schedules import Schedule


@dataclass(frozen=True)
class BuiltParts:
    """The parts of a run that rules inspect: the object that each configuration group describes, if any.

    A group that is left out, such as ``metrics=none``, has None.

    Attributes:
        model: the class of the model, not an object.
        backbone: the network, on the meta device: shapes without memory.
        guidance: the guidances around the network's denoiser, from the outermost in.
        callbacks: Lightning's callbacks, by their keys in the configuration.
        stages: the trained models that the run requires, by path in the configuration, each a
            :class:`~diffsweep.configuration.stage_nodes.Stage`.
        task: the :class:`~diffsweep.tasks.Task` of ``sample.py``; None in other commands.
    """

    model: type[Model]
    dataset: ImageData
    autoencoder: Autoencoder
    backbone: nn.Module
    execution: Execution
    noise: ClipNoise
    schedule: Schedule
    objective: Objective
    weighting: Weighting
    time_sampling: TimeSampling
    prediction: Prediction
    conditioning: Conditioning
    cascade: LowerStage | None
    teacher: Teacher | None
    adaptation: Adaptation | None
    concept: Concept | None
    discretisation: Discretisation | None
    preference: Preference | None
    comparisons: Comparisons | None
    scorer: Scorer | None
    guidance: Sequence[Guidance]
    sampler: Sampler
    feature_cache: FeatureCache | None
    metrics: GenerationMetrics | None
    likelihood: Likelihood | None
    callbacks: Mapping[str, Callback]
    perceptual: Perceptual | None
    discriminator: AdversarialLoss | None
    stages: Mapping[str, Any]
    task: Any

    def of(self, group: str) -> list[Any]:
        """Return the parts of a group as a list, which is ``[None]`` for a group that is left out.

        Guidance, callbacks and stages can have none or several parts, the other groups have one.
        """
        found = getattr(self, group)
        if isinstance(found, Mapping):
            return list(found.values())
        return list(found) if isinstance(found, Sequence) else [found]

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yield every part with its group."""
        return ((field.name, part) for field in fields(self) for part in self.of(field.name))

    @property
    def condition_sizes(self) -> Mapping[str, int]:
        """The parts of a condition that the conditioning, a cascade's lower stage and a teacher provide, with sizes."""
        others = (part for part in (self.cascade, self.teacher) if part is not None)
        return {**self.conditioning.sizes, **{name: size for part in others for name, size in part.sizes.items()}}

    @property
    def accepted(self) -> Mapping[str, int]:
        """The parts of a condition that the network accepts, with sizes: ``{"num_classes": 10}``; empty if none."""
        return getattr(self.backbone, "accepts", {})


Rule = Callable[[DictConfig, BuiltParts], str | None]
RULES: dict[str, Rule] = {}
LIMITS: set[str] = set()  # the names of rules of what a trained model can do
NOTES: dict[str, Rule] = {}  # warnings of what works, but may not be intended


def rule(function: Rule) -> Rule:
    """Register a function as a rule, which can refuse a configuration, and return it unchanged.

    Args:
        function: takes a configuration and its built parts, and returns an error message (why the configuration is
            refused, and what to type instead) or None. Its name states what must hold.
    """
    RULES[function.__name__] = function
    return function


def limit(function: Rule) -> Rule:
    """Register a function as a rule of what a trained model can do, and return it unchanged.

    Other models can do what it refuses, so a sweep over several runs leaves such a job out and runs the others.

    Args:
        function: as of :func:`rule`.
    """
    LIMITS.add(function.__name__)
    return rule(function)


def note(function: Rule) -> Rule:
    """Register a function as a note, which warns of a configuration that works but may not be intended, and return it.

    Args:
        function: takes a configuration and its built parts, and returns a warning or None.
    """
    NOTES[function.__name__] = function
    return function


def apply(cfg: DictConfig, parts: BuiltParts) -> None:
    """Raise a UserError with the message of the first rule that is broken; if none is, print the notes.

    The registered rules and notes of diffsweep and of the packages in ``cfg.trust`` are applied, ordered by module.
    Notes are printed to stderr.

    Args:
        cfg: the configuration, checked and with its sizes filled in.
        parts: the parts that it describes.

    Raises:
        UserError: in one line, which ends with the rule's name; a LeftOut if the rule is a limit.
    """
    import_all(importlib.import_module("diffsweep.configuration.rules"))
    with torch.no_grad():
        for name, function in _trusted(RULES, cfg):
            if message := function(cfg, parts):
                raise (LeftOut if name in LIMITS else UserError)(f"{message} [rule {name}]")
        for name, function in _trusted(NOTES, cfg):
            if message := function(cfg, parts):
                print(f"warning: {message} [{name}]", file=sys.stderr)


def _trusted(rules: Mapping[str, Rule], cfg: DictConfig) -> list[tuple[str, Rule]]:
    """Return the rules of diffsweep and of trusted packages, sorted by file, whatever was imported first."""
    found = [(name, function) for name, function in rules.items() if is_of(function, cfg.trust)]
    return sorted(found, key=lambda item: item[1].__module__)
