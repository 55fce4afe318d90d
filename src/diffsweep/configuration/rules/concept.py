"""Rules on new concepts: they are learned by a trained model, from images that exist."""

from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, note, rule
from diffsweep.datasets.images import SUFFIXES
from diffsweep.errors import UserError


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
    if concept is None or concept.files or not _trains(cfg):
        return None
    wanted = "give a folder of a few images" if concept.most is None else "give one image"
    if concept.images is None:
        return f"concept.images is missing: {wanted}"
    kinds = ", ".join(sorted(SUFFIXES))
    found = f"has no images ({kinds})" if concept.images.is_dir() else "is no folder and no image"
    return f"concept.images={concept.images} {found}; {wanted}"


@rule
def a_style_is_of_one_image(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a training has more images than its concept is learned from."""
    concept = parts.concept
    if concept is None or concept.most is None or not _trains(cfg) or len(concept.files) <= concept.most:
        return None
    return (
        f"concept.images={concept.images} has {len(concept.files)} images, and concept={cfg.choices.concept} learns "
        f"the style of one; use concept.images={concept.files[0]}, or concept=textual_inversion for several"
    )


@rule
def a_concept_can_be_read(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if an image of a concept, its caption, or a network that encodes it cannot be read."""
    concept = parts.concept
    if concept is None or not _trains(cfg) or not concept.requires <= parts.conditioning.provides:
        return None  # the last is refused by a rule of its own
    try:
        concept.check()
        concept.read(parts.dataset.channels, parts.dataset.image_size)
    except (UserError, ValueError) as error:
        return str(error)
    for file in concept.files:
        try:
            parts.conditioning.requested([concept.caption_of(file)])
        except ValueError as error:
            return f"the caption of {file}: {error}"
    return None


@note
def word_vectors_alone_are_learned_with_a_frozen_base(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return a warning if a concept without images of the base trains all of the base, which then forgets."""
    if parts.concept is None or parts.concept.num_prior or parts.adaptation is None or not parts.adaptation.train:
        return None
    return (
        "concept.num_prior=0 trains the base on the concept's images alone, and it forgets others; textual inversion "
        "has adaptation=frozen, and DreamBooth concept.num_prior=400"
    )


def _trains(cfg: DictConfig) -> bool:
    """Return whether a configuration is that of a training; other commands need no images of the concept."""
    return "replay" in cfg
