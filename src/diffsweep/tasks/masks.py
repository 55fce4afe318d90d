"""The part of images that a task of ``sample.py`` keeps, and the part that it draws: masks of pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from diffsweep.autoencoders import Autoencoder
from diffsweep.conditioning import Conditioning, ImageConditioning
from diffsweep.datasets import ImageData
from diffsweep.datasets.images import UnreadableImageError, read_image
from diffsweep.degradations import Degradation, Mask, OneOf
from diffsweep.diffusion import Known, Noise, PixelMask
from diffsweep.errors import UserError
from diffsweep.files import read_bytes
from diffsweep.guidance import Guidance

DRAWN = "degradation"  # the value of task.mask for masks that the group degradation draws
MASKS = "degradation=mask_half, mask_box, mask_strokes or another mask"


class Masks:
    """Masks of images: one of a file for all of them, or one of each that a degradation draws.

    A file is black where pixels are known and white where they are to be filled, as image editors have it.

    Args:
        source: the path of an image of the size of the model's; or ``degradation``.
        degradation: the degradation of the model's configuration; needed for the latter alone.
    """

    def __init__(self, source: str, degradation: Degradation | None) -> None:
        self.source, self.degradation = source, degradation

    def missing_because(self, data: ImageData) -> str | None:
        """Return a sentence why images of the size of ``data`` get no mask; None if they get one."""
        if self.source == DRAWN:
            if mask_of(self.degradation) is None:
                return f"{type(self.degradation).__name__} hides no pixels; use {MASKS}, or task.mask=FILE"
            return None
        try:
            self._read(data.image_size)
        except UserError as error:
            return str(error)
        return None

    def known(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        """Return which pixels of images (N, C, H, W) are known, bool, (N, 1, H, W), on the CPU.

        By default masks that are drawn follow from a sample's number alone, so that results of several seeds, samplers
        and guidances have the same masks.

        Args:
            images: the images, of which the number and the size matter.
            noise: other random numbers of the masks; None for those of samples 0 to N - 1 under the seed 0.

        Raises:
            UserError: as of :meth:`missing_because`.
        """
        if self.source == DRAWN:
            mask = mask_of(self.degradation)
            assert mask is not None
            return mask.measurement(images, noise or Noise(0, torch.arange(len(images)))).mask.cpu()
        return self._read(images.shape[-1]).expand(len(images), -1, -1, -1)

    def _read(self, image_size: int) -> Tensor:
        """Return the known pixels of the file, bool, (1, 1, H, W)."""
        path, key = Path(self.source), f"task.mask={self.source}"
        if not path.exists():
            raise UserError(f"{key}: no such file; give an image, white where pixels are to be filled, or {DRAWN}")
        try:
            values = torch.from_numpy(np.array(read_image(read_bytes(path)).convert("L")))
        except (OSError, UnreadableImageError) as error:
            raise UserError(f"{key} is no readable image: {getattr(error, 'strerror', None) or error}") from error
        height, width = values.shape
        if (height, width) != (image_size, image_size):
            raise UserError(
                f"{key} has {width} x {height} pixels, and the model's images have {image_size} x {image_size}; "
                "give a mask of their size"
            )
        if grey := [value for value in values.unique().tolist() if value not in (0, 255)]:
            raise UserError(
                f"{key} has the grey value {grey[0]}; a mask is black (0) where pixels are known, and white (255) "
                "where they are to be filled"
            )
        unknown = values == 255
        if unknown.all() or not unknown.any():
            everywhere = "everywhere, so nothing is known" if unknown.all() else "nowhere, so nothing is to be filled"
            raise UserError(f"{key} is white {everywhere}; give a mask of both black and white pixels")
        return ~unknown[None, None]


def mask_of(degradation: Degradation | None) -> Mask | None:
    """Return the mask that a degradation is, or the first of its parts if one of several is drawn; None for others."""
    if isinstance(degradation, OneOf):
        return next((part for part in degradation.parts.values() if isinstance(part, Mask)), None)
    return degradation if isinstance(degradation, Mask) else None


def not_guided_because(conditioning: Conditioning, guidances: Sequence[Guidance]) -> str | None:
    """Return a sentence why a model cannot fill what a mask hides, and what to use; None if it can.

    It can if its network reads masked images, or if guidance keeps samples consistent with known pixels.

    Args:
        conditioning: the conditioning of the model.
        guidances: the guidances around its denoiser.
    """
    if isinstance(conditioning, ImageConditioning):
        if mask_of(conditioning.degradation) is None:
            return (
                f"the network of this model reads images after {type(conditioning.degradation).__name__}, not masked "
                "ones; use a run of conditioning=image degradation=mask_half, or of another mask, or conditioning=none"
            )
        return None
    if any("measurement" in guidance.provides for guidance in guidances):
        return None
    free = any("null_condition" in guidance.requires for guidance in guidances)
    fix = "guidance=repaint_free or reconstruction_free" if free else "guidance=repaint, reconstruction or replacement"
    return (
        f"pixels are drawn given others, and this guidance has no use for them; use {fix}, or a run that was trained "
        "with conditioning=image and a mask, such as degradation=mask_half"
    )


def known_in(space: Autoencoder, images: Tensor, known: Tensor) -> Known:
    """Return the measurement of the known part of images in the space of an autoencoder.

    In pixels it is the known pixels themselves. A cell of the latents is known if all its pixels are. Its value is
    that of the images with the hidden pixels filled from their neighbours, so that it holds nothing of what is hidden.

    Args:
        space: the autoencoder of the model.
        images: in pixels, (N, C, H, W), on the space's device.
        known: which pixels are known, bool, (N, 1, H, W).

    Raises:
        UserError: a mask leaves no known cell in the latents.
    """
    size = space.shape[-2:]
    cells = functional.adaptive_max_pool2d((~known).float(), tuple(size)) == 0
    if not cells.flatten(1).any(1).all():
        raise UserError(
            f"task.mask leaves no known pixels in the {size[0]} x {size[1]} cells of the latents, each of which is "
            "known if all its pixels are; hide a smaller part, or use a model in pixels"
        )
    return Known(PixelMask(cells), space.encode(filled(images, known)))


def filled(images: Tensor, known: Tensor) -> Tensor:
    """Return images whose hidden pixels have the means of their known neighbours, from the edge of a hole inwards.

    Args:
        images: (N, C, H, W).
        known: which pixels are known, bool, (N, 1, H, W), at least one of each image.
    """
    values, weight = torch.where(known, images, 0.0), known.to(images)
    while not weight.all():
        near = functional.avg_pool2d(weight, 3, 1, 1, divisor_override=1)
        sums = functional.avg_pool2d(values * weight, 3, 1, 1, divisor_override=1)
        new = (weight == 0) & (near > 0)
        values = torch.where(new, sums / near.clamp(min=1), values)
        weight = torch.maximum(weight, new.to(weight))
    return values
