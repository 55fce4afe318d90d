"""Rules on the inputs and outputs of networks."""

from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, rule


@rule
def classifier_data_are_images(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a classifier is to be trained on clips: classifiers are of images."""
    if "class_output" not in parts.model.requires or cfg.space.num_frames is None:
        return None
    return (
        f"dataset={cfg.choices.dataset} has clips, and classifiers are of images; use metrics without one, such as "
        "metrics=moving_digits, fvd or none"
    )


@rule
def images_per_clip_have_unsplit_noise(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if images are trained beside clips by a network that splits the noise of clips.

    It splits the noise into a base, which the frames of a clip share, and a residual. Images beside clips
    (``model.images_per_clip``) have independent noise, without a base.
    """
    if cfg.model.get("images_per_clip") and "eps_output" in getattr(parts.backbone, "requires", ()):
        return (
            f"images beside clips have no part in the noise that backbone={cfg.choices.backbone} splits; use "
            "model.images_per_clip=0, or one network (backbone=unet3d)"
        )
    return None
