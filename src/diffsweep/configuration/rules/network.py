"""Rules on the inputs and outputs of networks."""

import math

from omegaconf import DictConfig, OmegaConf

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


@rule
def sides_of_buckets_fit_the_network(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if training images of several aspect ratios have sides that the network cannot take.

    Sides are multiples of ``dataset.buckets``, and in the space of diffusion they are smaller by the autoencoder's
    factor. A transformer takes multiples of the side of its patches, and a condition on a smaller image divides them by
    its factor. Whether a network takes other sizes than a square
    at all is declared by the capability ``aspect_ratios``.
    """
    buckets = getattr(parts.dataset, "buckets", None)
    step = parts.autoencoder.factor * getattr(parts.backbone, "side_multiple", 1)
    step = math.lcm(step, getattr(parts.conditioning, "side_multiple", 1))
    if buckets is None or buckets % step == 0:
        return None
    return (
        f"dataset.buckets={buckets} gives sides that backbone={cfg.choices.backbone} with autoencoder="
        f"{cfg.choices.autoencoder} and conditioning={cfg.choices.conditioning} cannot take; use a multiple of {step}"
    )


@rule
def images_of_several_sizes_are_no_stored_latents(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if training images of several aspect ratios are to be stored as latents of one size."""
    if "aspect_ratios" in parts.dataset.provides and getattr(parts.autoencoder, "cache", False):
        return (
            f"dataset.buckets={cfg.dataset.buckets} has images of several sizes, and a file of latents has one; use "
            "autoencoder.cache=false, or dataset.buckets=null"
        )
    return None


SIZES = {  # keys that follow from the data, and the size that each refers to
    "space.channels": "autoencoder.channels",
    "space.image_size": "autoencoder.image_size",
    "space.num_frames": "dataset.num_frames",
    "autoencoder.num_frames": "space.num_frames",
    "autoencoder.network.in_channels": "dataset.channels",
    "discriminator.network.in_channels": "dataset.channels",
    "backbone.in_channels": "space.channels",
    "backbone.out_channels": "space.out_channels",
}


@rule
def sizes_follow_from_the_data(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a size that follows from the data is typed and is another.

    Such are the channels of networks, and the channels and the side of the space. Without a network the space has the
    channels of the data.
    """
    sizes = SIZES if "network" in cfg.autoencoder else {"autoencoder.channels": "dataset.channels", **SIZES}
    for key, source in sizes.items():
        typed, needed = OmegaConf.select(cfg, key), OmegaConf.select(cfg, source)
        if typed is not None and typed != needed:
            shown = "null" if needed is None else needed
            return f"{key}={typed}, but it is {source}, which is {shown}; leave {key} out"
    side, factor, key = cfg.dataset.get("image_size"), parts.autoencoder.factor, "autoencoder.image_size"
    if side is not None and cfg.autoencoder.image_size * factor != side:
        return (
            f"{key}={cfg.autoencoder.image_size}, but it is dataset.image_size / {factor}, which is {side // factor}; "
            f"leave {key} out"
        )
    return None
