"""Images of one coloured shape, of which some have a spot: healthy images, and images with a lesion of known place."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffsweep.datasets.samples import Batch, Samples
from diffsweep.datasets.shapes import Shapes, ShapeSamples
from diffsweep.datasets.shapes_scene import LEVELS, Scene, coverage, draw
from diffsweep.diffusion import Noise, Stream

CLASSES = ("healthy", "spotted")
SEED = 0x5B07  # of the spots; those of the shapes have their own
COLOUR = (150, 255, 0)  # lime, which no shape or background has
CENTRES = (0.15, 0.85)  # x and y of a spot are uniform between these, as fractions of the side
RADII = (0.1, 0.14)  # and so is its radius: 1.6 to 2.2 pixels of 16
CIRCLE = 0  # the number of the circle among the shapes


class SpottedSamples(ShapeSamples):
    """A table of images of coloured shapes, some with a spot, that are rendered when they are requested.

    The annotation ``label`` is 1 for images with a spot, else 0. The column ``region``, bool, (N, H, W), which is in no
    batch, has the pixels of which the spot covers more than half.

    Args:
        scene: the shapes, colours, positions and sizes of the N images.
        image_size: H and W of the images.
        spotted: whether each image has a spot, bool, (N,).
        centre: x and y of the spots, float64, (N, 2), as fractions of the side.
        radius: their radii, float64, (N,).
        named: what the captions name, as of :class:`ShapeSamples`.
    """

    def __init__(
        self,
        scene: Scene,
        image_size: int,
        spotted: Tensor,
        centre: Tensor,
        radius: Tensor,
        named: Tensor | None = None,
    ) -> None:
        super().__init__(scene, image_size, named)
        self.spotted, self.centre, self.radius = spotted, centre, radius
        self._parts["label"] = spotted.long()

    def part(self, name: str) -> Any:
        if name == "region":
            return self._covered(torch.arange(len(self))) > 0.5
        return super().part(name)

    def rows(self, index: Tensor) -> Batch:
        batch, covered = super().rows(index), self._covered(index)[:, None]
        colour = torch.tensor(COLOUR, dtype=torch.float64)[:, None, None]
        levels = (batch["x"].double() + 1) * (LEVELS - 1) / 2
        levels = torch.lerp(levels, colour.expand_as(levels), covered.expand_as(levels)).round_()
        return {**batch, "x": levels.mul_(2 / (LEVELS - 1)).sub_(1).float()}

    def annotations(self, index: Tensor) -> Batch:
        return {**super().annotations(index), "label": self._parts["label"][index]}

    def _images(self) -> Tensor:
        x: Tensor = self.rows(torch.arange(len(self)))["x"]
        return x

    def _covered(self, index: Tensor) -> Tensor:
        """Return how much of each pixel the spot covers, (B, H, W) float64 in [0, 1]; 0 for images without a spot."""
        circle = torch.full_like(index, CIRCLE)
        covered = coverage(circle, self.centre[index], self.radius[index], self.image_size)
        return covered * self.spotted[index, None, None]


class SpottedShapes(Shapes):
    """The images of :class:`Shapes`, of which a share have a spot at a random place: a lesion whose region is known.

    The classes are ``healthy`` and ``spotted``. The spot is a small disc of a colour that nothing else has, and may
    cover a part of the shape. It is the data of ``task=counterfactual``, which finds what makes the class of an image.

    Args:
        spot: the share of images with a spot, in (0, 1).
        num_classes, class_names: constants of the data: see :class:`Shapes`.
        shapes: the other arguments of :class:`Shapes`.

    Raises:
        ValueError: ``spot`` is not in (0, 1), or as of :class:`Shapes`.
    """

    classes = CLASSES

    def __init__(
        self,
        spot: float = 0.5,
        num_classes: int = len(CLASSES),
        class_names: Sequence[str] = CLASSES,
        **shapes: Any,
    ) -> None:
        if not 0 < spot < 1:
            raise ValueError(f"dataset.spot is the share of images with a spot, between 0 and 1, not {spot}")
        super().__init__(num_classes=num_classes, class_names=class_names, **shapes)
        self.spot = spot

    def samples_at(self, index: Tensor, val: Tensor) -> Samples:
        u = Noise(SEED, index, val.long()).uniform(4, stream=Stream.DATA, dtype=torch.float64)
        centre = CENTRES[0] + (CENTRES[1] - CENTRES[0]) * u[:, 1:3]
        radius = RADII[0] + (RADII[1] - RADII[0]) * u[:, 3]
        scene = draw(index, val, self.held_out, self.unseen)
        spotted, named = u[:, 0] < self.spot, self.named(index, val)
        return SpottedSamples(scene, self.image_size, spotted, centre, radius, named)

    @property
    def fingerprint(self) -> str:
        return self.fingerprint_of(f"spotted-shapes-{self.image_size}", [self.of_scenes, self.spot])

    def aligned(self, x: Tensor, batch: Batch) -> dict[str, Tensor] | None:
        return None  # the reader of shapes takes a spot for a second shape

    def unchanged(self, x: Tensor, source: Tensor) -> dict[str, Tensor] | None:
        return None
