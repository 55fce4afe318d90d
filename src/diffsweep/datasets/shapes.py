"""Coloured shapes with class labels and captions, rendered when they are asked for: works offline, at any size."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffsweep.datasets.base import Batch, Samples
from diffsweep.datasets.made import MadeData
from diffsweep.datasets.shapes_checker import read
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
    pair_number,
    render,
)

SMALLEST = 16  # pixels: below, a small shape is less than five wide
SCALARS = ("x", "y", "radius")
AT_ONCE = 256  # pictures rendered in one pass


class ShapeSamples(Samples):
    """Scenes as samples: ``x``, ``label`` (the shape), ``caption`` and ``scalars`` (x and y of the centre and the radius, in hundredths
    of the side). Only what is asked for is rendered."""

    def __init__(self, scene: Scene, image_size: int) -> None:
        self.scene, self.image_size = scene, image_size
        numbers = 100 * torch.cat([scene.centre, scene.radius[:, None]], dim=1).float()
        self._parts: dict[str, Any] = {"label": scene.shape, "scalars": numbers}

    def __len__(self) -> int:
        return len(self.scene.shape)

    def part(self, name: str) -> Any:
        if name not in self._parts:
            make = {"x": self._pictures, "caption": lambda: captions(self.scene)}[name]
            self._parts[name] = make()
        return self._parts[name]

    def _pictures(self) -> Tensor:
        rows = torch.arange(len(self)).split(AT_ONCE)
        return torch.cat([render(self.scene.rows(some), self.image_size) for some in rows])

    def rows(self, index: Tensor) -> Batch:
        return {"x": render(self.scene.rows(index), self.image_size), **self.annotations(index)}

    def annotations(self, index: Tensor) -> Batch:
        scene = self.scene.rows(index)
        return {"label": scene.shape, "caption": captions(scene), "scalars": self._parts["scalars"][index]}


class Shapes(MadeData):
    """One of 4 shapes in one of 8 colours, in 9 positions and 2 sizes, on one of 3 backgrounds, each a little off its place and size.

    Sample i of a split is a function of i, so it is the same on any machine, in any batch and whatever the seed. Training never shows the
    pairs that are held out; the held-out split shows all pairs alike, so how well a model composes what it knows apart can be measured,
    as Okawa et al. 2023 (arXiv:2310.09336) do. :meth:`aligned` measures it.

    Args:
        channels, num_classes, levels, class_names, vocabulary, scalars: facts of the data, which exist for the configuration and cannot
            be changed. The classes are the shapes; the vocabulary has all words of captions; scalars are the names of the numbers.
        image_size: at least 16.
        held_out: pairs [colour, shape].
        num_train, num_val: samples of the two splits.
        batch_size, settings: those of :class:`~diffsweep.datasets.made.MadeData`.
    """

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
        num_train: int = 20_000,
        num_val: int = 2_000,
        batch_size: int = 128,
        **settings: Any,
    ) -> None:
        if (channels, num_classes, levels) != (3, len(SHAPES), LEVELS):
            raise ValueError(
                f"shapes have 3 channels, {len(SHAPES)} classes and {LEVELS} levels; these cannot be changed"
            )
        facts = (
            ("class_names", class_names, SHAPES),
            ("vocabulary", vocabulary, VOCABULARY),
            ("scalars", scalars, SCALARS),
        )
        for key, given, fact in facts:
            if list(given) != list(fact):
                raise ValueError(f"dataset.{key} of shapes is [{', '.join(fact)}]; it cannot be changed")
        if image_size < SMALLEST:
            raise ValueError(f"dataset.image_size of shapes must be at least {SMALLEST}, not {image_size}")
        sizes = {"channels": channels, "image_size": image_size, "num_classes": num_classes, "levels": levels}
        super().__init__(num_train=num_train, num_val=num_val, batch_size=batch_size, **sizes, **settings)
        self.held_out = _pairs(held_out)

    def made(self, index: Tensor, val: Tensor) -> Samples:
        return ShapeSamples(draw(index, val, self.held_out), self.image_size)

    @property
    def fingerprint(self) -> str:
        """Return sizes, and a hash of the held-out pairs and of the first pictures, so of how these are drawn too."""
        return self.identified(f"shapes-{self.image_size}", self.held_out.tolist())

    def aligned(self, x: Tensor, batch: Batch) -> dict[str, Tensor] | None:
        """See :meth:`ImageData.aligned`. What was not asked for is right, but nothing is right where no shape was found. None where
        nothing was asked.

        Raises:
            ValueError: a caption contradicts itself.
        """
        said = _requested(batch)
        if said is None:
            return None
        seen = read(x)
        right = {
            what: seen.found & ((said_of < 0) | (said_of == getattr(seen, what)))
            for what, said_of in said._asdict().items()
        }
        both = (said.shape >= 0) & (said.colour >= 0)
        right["colour_and_shape"] = right["colour"] & right["shape"]
        right["held_out"] = both & torch.isin(pair_number(said.shape, said.colour), self.held_out)
        return {name: value.to(x.device) for name, value in right.items()}


def _requested(batch: Batch) -> Attributes | None:
    if "caption" in batch:
        return attributes_of(batch["caption"])
    if "label" in batch:
        shape = batch["label"].cpu()
        nothing = torch.full_like(shape, -1)
        return Attributes(shape, nothing, nothing, nothing)
    return None


def _pairs(held_out: Sequence[Sequence[str]]) -> Tensor:
    """The numbers of held-out pairs, int64, each once, in order.

    Raises:
        ValueError: a pair is none, or nothing is left for training to show of a colour or a shape.
    """
    for pair in held_out:
        if len(pair) != 2 or pair[0] not in COLOURS or pair[1] not in SHAPES:
            known = f"colours are {', '.join(COLOURS)}, shapes are {', '.join(SHAPES)}"
            raise ValueError(f"dataset.held_out: [{', '.join(pair)}] is not a [colour, shape]; {known}")
    said = attributes_of([" ".join(pair) for pair in held_out])
    held = torch.zeros(len(SHAPES), len(COLOURS), dtype=torch.bool)
    held[said.shape, said.colour] = True
    for names, all_held in ((COLOURS, held.all(0)), (SHAPES, held.all(1))):
        for name, hidden in zip(names, all_held.tolist(), strict=True):
            if hidden:
                raise ValueError(f"dataset.held_out leaves training nothing {name}; leave it a pair with {name}")
    return pair_number(said.shape, said.colour).unique()
