"""Images of one coloured shape with a label and a caption, rendered on demand, at any size, without a download."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffsweep.datasets.samples import Batch, Samples
from diffsweep.datasets.shapes_checker import fit, read, reading_of
from diffsweep.datasets.shapes_scene import (
    COLOURS,
    LEVELS,
    SHAPES,
    VOCABULARY,
    Attributes,
    Scene,
    attributes_of,
    captions,
    draw,
    named_at_random,
    pair_number,
    render,
)
from diffsweep.datasets.synthetic import SyntheticData

SMALLEST = 16  # pixels: in a smaller image a small shape would be less than five pixels wide
SCALARS = ("x", "y", "radius")
AT_ONCE = 256  # images rendered in one pass


class ShapeSamples(Samples):
    """A table of images of coloured shapes that are rendered when they are requested.

    The annotations are ``label`` (the number of the shape), ``caption``, and ``scalars`` (N, 3): x and y of the shape's
    centre and its radius, in hundredths of the image's side.

    Args:
        scene: the shapes, colours, positions and sizes of the N images.
        image_size: H and W of the images.
        named: whether each caption names the size, the colour and the position, bool, (N, 3); None for all of them.
    """

    def __init__(self, scene: Scene, image_size: int, named: Tensor | None = None) -> None:
        self.scene, self.image_size, self.named = scene, image_size, named
        numbers = 100 * torch.cat([scene.centre, scene.radius[:, None]], dim=1).float()
        self._parts: dict[str, Any] = {"label": scene.shape, "scalars": numbers}

    def __len__(self) -> int:
        return len(self.scene.shape)

    def part(self, name: str) -> Any:
        if name not in self._parts:
            make = {"x": self._images, "caption": lambda: captions(self.scene, self.named)}[name]
            self._parts[name] = make()
        return self._parts[name]

    def _images(self) -> Tensor:
        rows = torch.arange(len(self)).split(AT_ONCE)
        return torch.cat([render(self.scene.rows(some), self.image_size) for some in rows])

    def rows(self, index: Tensor) -> Batch:
        return {"x": render(self.scene.rows(index), self.image_size), **self.annotations(index)}

    def annotations(self, index: Tensor) -> Batch:
        scene, named = self.scene.rows(index), None if self.named is None else self.named[index]
        return {"label": scene.shape, "caption": captions(scene, named), "scalars": self._parts["scalars"][index]}


class Shapes(SyntheticData):
    """A synthetic dataset of images with one shape each, to measure how well a model follows labels and captions.

    An image shows one of 4 shapes in one of 8 colours, at one of 9 positions in one of 2 sizes, with a small random
    offset of both, on one of 3 plain backgrounds. Sample i of a split is the same on any machine, in any batch and with
    any seed.

    Training never shows the pairs of colour and shape in ``held_out``; in the held-out split all pairs are equally
    probable. So whether a model composes a colour and a shape that it has seen only apart can be measured (Okawa et al.
    2023, arXiv:2310.09336): :meth:`aligned` reads generated images and compares them with their captions.

    Args:
        channels, num_classes, levels, class_names, vocabulary, scalars: constants of the data, which are arguments so
            that the configuration can state them; other values raise a ValueError. The classes are the shapes, the
            vocabulary is all words of captions, and ``scalars`` names the numbers that describe each image.
        image_size: H and W, at least 16.
        held_out: the pairs [colour, shape] that training never shows.
        unseen: shapes that neither split shows, so that a model of the others can be adapted to them.
        caption_detail: the probability that the caption of a training image names the size, and the same of the colour
            and of the position; the shape is always named. Below 1 captions differ in length, as people's do, and a
            model learns what short ones leave open. A training image has one caption at all visits, and captions of
            held-out images name everything.
        num_train, num_val: number of training and of held-out samples.
        batch_size, settings: further arguments of :class:`~diffsweep.datasets.base.ImageData`.

    Raises:
        ValueError: a constant has another value, ``image_size`` is below 16, ``caption_detail`` is not in [0, 1], a
            pair in ``held_out`` or a shape in ``unseen`` is unknown, all pairs of one colour or shape are held out, or
            all shapes are unseen.
    """

    classes: Sequence[str] = tuple(SHAPES)
    numbers = SCALARS

    def __init__(
        self,
        channels: int = 3,
        image_size: int = 16,
        num_classes: int = len(SHAPES),
        levels: int = LEVELS,
        class_names: Sequence[str] = tuple(SHAPES),
        vocabulary: Sequence[str] = tuple(VOCABULARY),
        scalars: Sequence[str] = SCALARS,
        held_out: Sequence[Sequence[str]] = (),
        unseen: Sequence[str] = (),
        caption_detail: float = 1.0,
        num_train: int = 20_000,
        num_val: int = 2_000,
        batch_size: int = 128,
        **settings: Any,
    ) -> None:
        if (channels, num_classes, levels) != (3, len(self.classes), LEVELS):
            raise ValueError(
                f"shapes have 3 channels, {len(self.classes)} classes and {LEVELS} levels; these cannot be changed"
            )
        constants = (
            ("class_names", class_names, self.classes),
            ("vocabulary", vocabulary, VOCABULARY),
            ("scalars", scalars, SCALARS),
        )
        for key, given, constant in constants:
            if list(given) != list(constant):
                raise ValueError(f"dataset.{key} of shapes is [{', '.join(constant)}]; it cannot be changed")
        if image_size < SMALLEST:
            raise ValueError(f"dataset.image_size of shapes must be at least {SMALLEST}, not {image_size}")
        if not 0 <= caption_detail <= 1:
            raise ValueError(f"dataset.caption_detail is a probability, from 0 to 1, not {caption_detail}")
        sizes = {"channels": channels, "image_size": image_size, "num_classes": num_classes, "levels": levels}
        super().__init__(num_train=num_train, num_val=num_val, batch_size=batch_size, **sizes, **settings)
        self.held_out, self.caption_detail = _pairs(held_out), caption_detail
        self.unseen = _pairs_of(unseen)

    def samples_at(self, index: Tensor, val: Tensor) -> Samples:
        scene = draw(index, val, self.held_out, self.unseen)
        return ShapeSamples(scene, self.image_size, self.named(index, val))

    def named(self, index: Tensor, val: Tensor) -> Tensor | None:
        """Return whether the captions of samples name size, colour and position, bool, (N, 3); None if all do.

        Args:
            index, val: the number of each sample and its split, as of :meth:`samples_at`.
        """
        return None if self.caption_detail == 1 else named_at_random(index, val, self.caption_detail)

    @property
    def fingerprint(self) -> str:
        """Return a text that is equal for equal data and different otherwise.

        It has the sizes of images and splits, and a hash of the held-out pairs, of the unseen ones, of
        ``caption_detail`` and of the first 64 images of each split.
        """
        return self.fingerprint_of(f"shapes-{self.image_size}", self.of_scenes)

    @property
    def of_scenes(self) -> list[object]:
        """Return the settings of the scenes and captions that the fingerprint contains: what training does not show."""
        held_out: list[object] = self.held_out.tolist()
        more = [*([] if self.caption_detail == 1 else [self.caption_detail]), *self.unseen.tolist()]
        return [held_out, *more] if more else held_out

    def aligned(self, x: Tensor, batch: Batch) -> dict[str, Tensor] | None:
        """Return whether each generated image shows the colour, shape, position and size that it was requested to show.

        They are read from the pixels by least squares. An attribute that was not requested counts as right. Where no
        shape is found in the image, every attribute counts as wrong.

        Args:
            x: generated images, (N, 3, H, W) in [-1, 1].
            batch: the request: ``caption``, a list of N texts, else ``label`` (N,), which requests a shape alone.

        Returns:
            bool tensors (N,): ``colour``, ``shape``, ``position``, ``size``, ``colour_and_shape``, and ``held_out``,
            whether the requested pair never occurs in training; None if the request has neither captions nor labels.

        Raises:
            ValueError: a caption requests two values of one attribute, or a position that does not exist.
        """
        requested = _requested(batch)
        if requested is None:
            return None
        shown = read(x)
        right = {
            name: shown.found & ((value < 0) | (value == getattr(shown, name)))
            for name, value in requested._asdict().items()
        }
        both = (requested.shape >= 0) & (requested.colour >= 0)
        right["colour_and_shape"] = right["colour"] & right["shape"]
        right["held_out"] = both & torch.isin(pair_number(requested.shape, requested.colour), self.held_out)
        return {name: value.to(x.device) for name, value in right.items()}

    def read_numbers(self, x: Tensor) -> dict[str, Tensor]:
        """Return the numbers of ``scalars`` as they are read from images by least squares: see the base class.

        They are x and y of the shape's centre and its radius, in hundredths of the image's side.
        """
        scene = fit(x)
        numbers = 100 * torch.cat([scene.centre, scene.radius[:, None]], dim=1)
        numbers = numbers.where(reading_of(scene).found[:, None], torch.nan)
        return dict(zip(SCALARS, numbers.unbind(1), strict=True))

    def unchanged(self, x: Tensor, source: Tensor) -> dict[str, Tensor] | None:
        # Where no shape is found in one of the images, nothing counts as unchanged.
        new, old = read(x), read(source)
        found = new.found & old.found
        same = {name: found & (getattr(new, name) == getattr(old, name)) for name in ("shape", "position")}
        same["shape_and_position"] = same["shape"] & same["position"]
        same |= {name: found & (getattr(new, name) == getattr(old, name)) for name in ("size", "colour")}
        return {name: value.to(x.device) for name, value in same.items()}


def _requested(batch: Batch) -> Attributes | None:
    """Return the attributes that a request's captions, or else its labels, name; None if it has neither."""
    if "caption" in batch:
        return attributes_of(batch["caption"])
    if "label" in batch:
        shape = batch["label"].cpu()
        nothing = torch.full_like(shape, -1)
        return Attributes(shape, nothing, nothing, nothing)
    return None


def _pairs(held_out: Sequence[Sequence[str]]) -> Tensor:
    """Return the numbers of the held-out pairs [colour, shape], int64, sorted and each once; see :func:`pair_number`.

    Raises:
        ValueError: a pair is not a known colour and shape, or all pairs of one colour or one shape are held out.
    """
    for pair in held_out:
        if len(pair) != 2 or pair[0] not in COLOURS or pair[1] not in SHAPES:
            known = f"colours are {', '.join(COLOURS)}, shapes are {', '.join(SHAPES)}"
            raise ValueError(f"dataset.held_out: [{', '.join(pair)}] is not a [colour, shape]; {known}")
    pairs = attributes_of([" ".join(pair) for pair in held_out])
    held = torch.zeros(len(SHAPES), len(COLOURS), dtype=torch.bool)
    held[pairs.shape, pairs.colour] = True
    for names, all_held in ((COLOURS, held.all(0)), (SHAPES, held.all(1))):
        for name, hidden in zip(names, all_held.tolist(), strict=True):
            if hidden:
                raise ValueError(
                    f"dataset.held_out has all pairs with {name}, so training never shows it; remove one of them"
                )
    return pair_number(pairs.shape, pairs.colour).unique()


def _pairs_of(unseen: Sequence[str]) -> Tensor:
    """Return the numbers of all pairs of colour and shape with the given shapes, int64.

    Raises:
        ValueError: a name is no shape, or all shapes are given.
    """
    if unknown := [name for name in unseen if name not in SHAPES]:
        raise ValueError(f"dataset.unseen: {unknown[0]} is no shape; shapes are {', '.join(SHAPES)}")
    shapes = torch.tensor([number for number, name in enumerate(SHAPES) if name in unseen], dtype=torch.int64)
    if len(shapes) == len(SHAPES):
        raise ValueError("dataset.unseen has all shapes, so no image is left; remove one of them")
    return pair_number(shapes[:, None], torch.arange(len(COLOURS))).flatten()
