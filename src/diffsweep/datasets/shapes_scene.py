r"""The scenes of ``dataset=shapes``, one coloured shape on a plain background: random attributes, pixels and captions.

A pixel's value is

.. math:: m \, c + (1 - m) \, b, \qquad m = \mathrm{clamp}(1/2 - d, 0, 1),

of the shape's colour c, the background b and the signed distance d of the pixel's centre from the shape's edge, in
pixels, negative inside. Other lengths are fractions of the image's side, from its top left corner, x to the right and y
down; so a scene looks the same at any image size.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffsweep.diffusion import Noise, Stream

# Each shape's distance function of |u| and v, the offsets from its centre in radii, both (B, H, W). Its values are in
# radii, negative inside the shape, and equal the distance from an edge beside that edge. Each shape lies within |u|,
# |v| <= 1. The triangle's corners are (0, -0.9), (-1, 0.9) and (1, 0.9).
SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": lambda u, v: (u * u + v * v).sqrt() - 1,
    "square": lambda u, v: torch.maximum(u, v.abs()) - 0.9,
    "triangle": lambda u, v: torch.maximum(v - 0.9, (1.8 * u - v - 0.9) / 4.24**0.5),
    "cross": lambda u, v: torch.maximum(torch.minimum(u, v.abs()) - 0.3, torch.maximum(u, v.abs()) - 1),
}
COLOURS = {
    "red": (225, 35, 35),
    "orange": (255, 140, 0),
    "yellow": (255, 240, 50),
    "green": (35, 165, 50),
    "cyan": (0, 210, 225),
    "blue": (40, 70, 235),
    "purple": (135, 30, 180),
    "pink": (255, 130, 205),
}
BACKGROUNDS = {"black": (0, 0, 0), "dark grey": (64, 64, 64), "white": (255, 255, 255)}
SIZES = {"small": 0.155, "large": 0.225}  # radii: 2.5 and 3.6 pixels of 16
POSITIONS = {  # x and y of the centre, row by row; nearer the middle than a grid of thirds, so that large shapes fit
    "at the top left": (0.28, 0.28),
    "at the top": (0.5, 0.28),
    "at the top right": (0.72, 0.28),
    "at the left": (0.28, 0.5),
    "in the centre": (0.5, 0.5),
    "at the right": (0.72, 0.5),
    "at the bottom left": (0.28, 0.72),
    "at the bottom": (0.5, 0.72),
    "at the bottom right": (0.72, 0.72),
}
CENTRE_JITTER, RADIUS_JITTER = 0.03, 0.01  # largest offsets; the largest shape in a corner still fits
LEVELS = 256
SEED = 0x5AFE  # the dataset's own seed: a run's seed does not change the images

VOCABULARY = ["a", *SIZES, *COLOURS, *SHAPES, *dict.fromkeys(" ".join(POSITIONS).split())]
_SHAPE, _COLOUR, _SIZE, _POSITION = (list(names) for names in (SHAPES, COLOURS, SIZES, POSITIONS))
_PLACES = [frozenset(phrase.split()) - {"at", "in", "the"} for phrase in POSITIONS]
# The values of the four dicts as tensors: colours (K, 3) in levels of 0 to 255, centres (K, 2) and radii (K,).
PALETTE, BACKDROPS, CENTRES, RADII = (
    torch.tensor(list(named.values()), dtype=torch.float64) for named in (COLOURS, BACKGROUNDS, POSITIONS, SIZES)
)


class Scene(NamedTuple):
    """A description of B images that show one coloured shape on a plain background each.

    Attributes:
        shape, colour, position, size, background: int64, (B,): numbers in the order of SHAPES, COLOURS, POSITIONS,
            SIZES and BACKGROUNDS.
        centre: float64, (B, 2): x and y of the shape's centre, as fractions of the image's side.
        radius: float64, (B,), as a fraction of the image's side.
    """

    shape: Tensor
    colour: Tensor
    position: Tensor
    size: Tensor
    background: Tensor
    centre: Tensor
    radius: Tensor

    def rows(self, index: Tensor | slice) -> "Scene":
        """Return the scenes that an int64 index (B,) or a slice selects, as a Scene."""
        return Scene(*(field[index] for field in self))


class Attributes(NamedTuple):
    """A record of the attributes that B captions name.

    Attributes:
        shape, colour, position, size: int64, (B,): numbers in the order of the names in SHAPES, COLOURS, POSITIONS and
            SIZES; -1 where a caption does not name the attribute.
    """

    shape: Tensor
    colour: Tensor
    position: Tensor
    size: Tensor


def draw(index: Tensor, val: Tensor, held_out: Tensor, unseen: Tensor | None = None) -> Scene:
    """Draw random scenes, one shape on a background each; every attribute is uniform and independent of the others.

    A scene depends on its number and its split alone. A scene with a pair of shape and colour that its split leaves out
    gets another pair, uniform over those that are left. So these stay uniform, and changing the pairs that are left out
    changes no scene without them.

    Args:
        index: int64, (B,), at least 0: the number of each scene in its split.
        val: bool, (B,): True for a scene of the held-out split.
        held_out: int64, (K,): the numbers of the pairs that training leaves out, see :func:`pair_number`.
        unseen: int64, (M,): those of the pairs that both splits leave out; None for none.
    """
    u = Noise(SEED, index, val.long()).uniform(8, stream=Stream.DATA, dtype=torch.float64)
    pairs = torch.arange(len(SHAPES) * len(COLOURS))
    pair, absent = _one_of(u[:, 0], len(pairs)), pairs[:0] if unseen is None else unseen
    for split, omitted in ((~val, torch.cat([held_out, absent])), (val, absent)):
        left = pairs[~torch.isin(pairs, omitted)]
        pair = torch.where(split & torch.isin(pair, omitted), left[_one_of(u[:, 1], len(left))], pair)
    shape, colour = pair // len(COLOURS), pair % len(COLOURS)
    position, size = _one_of(u[:, 2], len(POSITIONS)), _one_of(u[:, 3], len(SIZES))
    background = _one_of(u[:, 4], len(BACKGROUNDS))
    centre = CENTRES[position] + CENTRE_JITTER * (2 * u[:, 5:7] - 1)
    radius = RADII[size] + RADIUS_JITTER * (2 * u[:, 7] - 1)
    return Scene(shape, colour, position, size, background, centre, radius)


def _one_of(u: Tensor, count: int) -> Tensor:
    """Return floor(u count): uniform numbers u in (0, 1) become uniform integers from 0 to ``count - 1``."""
    return (u * count).long()


def pair_number(shape: Tensor, colour: Tensor) -> Tensor:
    """Return the number of a pair of shape and colour, int64: shape * (number of colours) + colour.

    Args:
        shape, colour: int64, (B,): numbers in the order of SHAPES and COLOURS.
    """
    return shape * len(COLOURS) + colour


def coverage(shape: Tensor, centre: Tensor, radius: Tensor, image_size: int) -> Tensor:
    """Return how much of each pixel a shape covers, m in [0, 1], (B, H, W) float64.

    It falls from 1 to 0 within the pixel at the edge: m = clamp(1/2 - d, 0, 1) with the signed distance d of the
    pixel's centre from the edge, in pixels, negative inside.

    Args:
        shape: int64, (B,): the numbers of the shapes in the order of SHAPES.
        centre: x and y, (B, 2), as fractions of the side.
        radius: (B,), as fractions of the side.
        image_size: H and W.
    """
    along = (torch.arange(image_size, dtype=torch.float64) + 0.5) / image_size
    u, v = ((along - centre[:, :, None]) / radius[:, None, None]).unbind(1)  # (B, W), (B, H)
    u = u.abs()
    outside = torch.empty(len(shape), image_size, image_size, dtype=torch.float64)
    for number, signed in enumerate(SHAPES.values()):
        rows = (shape == number).nonzero()[:, 0]
        outside[rows] = signed(u[rows, None, :], v[rows, :, None])
    return outside.mul_(radius[:, None, None] * -image_size).add_(0.5).clamp_(0, 1)


def render(scene: Scene, image_size: int) -> Tensor:
    """Return the images of scenes, (B, 3, H, W) float32 in [-1, 1], rounded to 256 levels.

    All is computed in float64 until the rounding, so that last bits that differ between machines practically never
    change a level.
    """
    mask = coverage(scene.shape, scene.centre, scene.radius, image_size)[:, None]  # (B, 1, H, W)
    colour, background = (
        table[field][:, :, None, None] for table, field in ((PALETTE, scene.colour), (BACKDROPS, scene.background))
    )
    levels = (mask * (colour - background)).add_(background).round_()
    return levels.mul_(2 / (LEVELS - 1)).sub_(1).float()


def named_at_random(index: Tensor, val: Tensor, detail: float) -> Tensor:
    """Return whether captions name the size, the colour and the position of their scenes, bool, (B, 3).

    Each is named with probability ``detail``, independently. It depends on the numbers of the scenes alone. Captions of
    held-out scenes name all three.

    Args:
        index: int64, (B,), the number of each scene in its split.
        val: bool, (B,), True for a scene of the held-out split.
        detail: a probability in [0, 1].
    """
    u = Noise(SEED, index, val.long()).uniform(3, stream=Stream.CONDITION, dtype=torch.float64)
    return (u < detail) | val[:, None]


def captions(scene: Scene, named: Tensor | None = None) -> list[str]:
    """Return the captions of scenes, such as "a small red circle at the top left"; they do not name the background.

    Args:
        scene: the B scenes.
        named: whether each caption names the size, the colour and the position, bool, (B, 3); None for all of them. The
            shape is always named: "a circle" is the shortest caption.
    """
    fields = torch.stack([scene.size, scene.colour, scene.position], 1)
    numbers = fields if named is None else fields.where(named, -1)
    phrases = [(*_SIZE, ""), (*_COLOUR, ""), (*_POSITION, "")]  # the number -1 is that of the empty text
    texts = []
    for shape, row in zip(scene.shape.tolist(), numbers.tolist(), strict=True):
        size, colour, position = (names[number] for names, number in zip(phrases, row, strict=True))
        texts.append(" ".join(word for word in ("a", size, colour, _SHAPE[shape], position) if word))
    return texts


def attributes_of(captions: Sequence[str]) -> Attributes:
    """Return the numbers of the shapes, colours, positions and sizes that captions name.

    A caption may leave any of them out; their number is then -1. Unknown words are ignored.

    Raises:
        ValueError: a caption names two shapes, two colours, two sizes, or a position that does not exist.
    """
    numbers = torch.tensor([_attributes_of(caption) for caption in captions], dtype=torch.int64)
    return Attributes(*numbers.reshape(-1, 4).unbind(1))


def _attributes_of(caption: str) -> tuple[int, int, int, int]:
    words = re.findall(r"[a-z]+", caption.lower())
    place = frozenset(words) & frozenset[str]().union(*_PLACES)
    if place and place not in _PLACES:
        raise ValueError(f"the caption '{caption}' names no known position; positions are {', '.join(POSITIONS)}")
    position = _PLACES.index(place) if place else -1
    return _named(caption, words, _SHAPE), _named(caption, words, _COLOUR), position, _named(caption, words, _SIZE)


def _named(caption: str, words: list[str], names: list[str]) -> int:
    found = {names.index(word) for word in words if word in names}
    if len(found) > 1:
        raise ValueError(f"the caption '{caption}' names several of {', '.join(names)}; an image shows one")
    return found.pop() if found else -1
