"""Rules on new concepts: they are learned by a trained model, from images that exist."""

from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, note, rule
from diffsweep.datasets.images import SUFFIXES


@rule
def a_concept_is_learned_by_a_trained_model(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a concept is learned by a model that starts from random weights."""
    if parts.concept is not None and parts.adaptation is None:
        return f"concept={cfg.choices.concept} is learned by a trained model, and none is given; use from=RUN"
    return None


@rule
def a_concept_has_images(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a training has no images of its concept."""
    concept = parts.concept
    if concept is None or concept.files or "replay" not in cfg:  # no training
        return None
    if concept.images is None:
        return "concept.images is missing: give a folder of a few images"
    kinds = ", ".join(sorted(SUFFIXES))
    found = f"has no images ({kinds})" if concept.images.is_dir() else "is no folder"
    return f"concept.images={concept.images} {found}; give a folder of a few images"


@note
def word_vectors_alone_are_learned_with_a_frozen_base(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return a warning if a concept without images of the base trains all of the base, which then forgets."""
    if parts.concept is None or parts.concept.num_prior or parts.adaptation is None or not parts.adaptation.train:
        return None
    return (
        "concept.num_prior=0 trains the base on the concept's images alone, and it forgets others; textual inversion "
        "has adaptation=frozen, and DreamBooth concept.num_prior=400"
    )
