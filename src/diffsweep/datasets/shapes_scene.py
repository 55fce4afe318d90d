"""What a picture of ``shapes`` is: one coloured shape on a plain background. Its attributes, its pixels and its caption.

Lengths are fractions of the image's side; x goes right and y down, from the top left corner. So a scene looks the same at any size.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffsweep.diffusion import Noise, Stream

# Each shape as a function of |u| and v, the offsets from its centre in radii, both (B, H, W): in radii too, how far a point is
# outside, negative inside. Along an edge it is the distance; each shape lies within |u|, |v| <= 1. The triangle's corners are
# (0, -0.9), (-1, 0.9) and (1, 0.9).
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
POSITIONS = {  # row by row
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
CENTRE_JITTER, RADIUS_JITTER = 0.03, 0.01  # each way; the largest shape in a corner stays inside the image
LEVELS = 256
SEED = 0x5AFE  # the data's own: a run's seed does not change them

VOCABULARY = ["a", *SIZES, *COLOURS, *SHAPES, *dict.fromkeys(" ".join(POSITIONS).split())]
_SHAPE, _COLOUR, _SIZE, _POSITION = (list(names) for names in (SHAPES, COLOURS, SIZES, POSITIONS))
_PLACES = [frozenset(phrase.split()) - {"at", "in", "the"} for phrase in POSITIONS]
# The numbers of the dicts, (K, 3) in levels, (K, 2) and (K,).
PALETTE, BACKDROPS, CENTRES, RADII = (
    torch.tensor(list(named.values()), dtype=torch.float64) for named in (COLOURS, BACKGROUNDS, POSITIONS, SIZES)
)


class Scene(NamedTuple):
    """Scenes. The first five fields count through the dicts above."""

    shape: Tensor  # (B,) int64, and so the next four
    colour: Tensor
    position: Tensor
    size: Tensor
    background: Tensor
    centre: Tensor  # (B, 2) float64, x and y
    radius: Tensor  # (B,) float64

    def rows(self, index: Tensor | slice) -> "Scene":
        """Some of them."""
        return Scene(*(field[index] for field in self))


class Attributes(NamedTuple):
    """What captions say, each (B,) int64; -1 where one says nothing."""

    shape: Tensor
    colour: Tensor
    position: Tensor
    size: Tensor


def draw(index: Tensor, val: Tensor, held_out: Tensor) -> Scene:
    """The scenes of an index, every attribute uniform and independent of the others.

    Training scenes that came out with a held-out pair get another pair, uniform over those that are left; so the pairs that are left stay
    uniform, and holding out others changes no other scene.

    Args:
        index: int64, (B,), at least 0: which scene of its split each is.
        val: bool, (B,): whether it is one of the held-out split, which has all pairs.
        held_out: int64, (K,): numbers of the held-out pairs, see :func:`pair_number`.
    """
    u = Noise(SEED, index, val.long()).uniform(8, stream=Stream.DATA, dtype=torch.float64)
    pairs = torch.arange(len(SHAPES) * len(COLOURS))
    pair, left = _one_of(u[:, 0], len(pairs)), pairs[~torch.isin(pairs, held_out)]
    pair = torch.where(torch.isin(pair, held_out) & ~val, left[_one_of(u[:, 1], len(left))], pair)
    shape, colour = pair // len(COLOURS), pair % len(COLOURS)
    position, size = _one_of(u[:, 2], len(POSITIONS)), _one_of(u[:, 3], len(SIZES))
    background = _one_of(u[:, 4], len(BACKGROUNDS))
    centre = CENTRES[position] + CENTRE_JITTER * (2 * u[:, 5:7] - 1)
    radius = RADII[size] + RADIUS_JITTER * (2 * u[:, 7] - 1)
    return Scene(shape, colour, position, size, background, centre, radius)


def _one_of(u: Tensor, count: int) -> Tensor:
    """Uniform numbers in (0, 1) to uniform ones of 0 to ``count - 1``."""
    return (u * count).long()


def pair_number(shape: Tensor, colour: Tensor) -> Tensor:
    """Counts the pairs of a shape and a colour, int64."""
    return shape * len(COLOURS) + colour


def coverage(shape: Tensor, centre: Tensor, radius: Tensor, image_size: int) -> Tensor:
    """How much of each pixel a shape covers, in [0, 1], (B, H, W) float64.

    It goes from 1 to 0 over the pixel about the edge: clamp(1/2 - d, 0, 1) of the signed distance d of the pixel's centre, in pixels.
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
    """The pictures, (B, 3, H, W) float32 in [-1, 1], on the grid of 256 levels. In float64 until then: a last bit that differs between
    machines then practically never rounds to another level."""
    mask = coverage(scene.shape, scene.centre, scene.radius, image_size)[:, None]  # (B, 1, H, W)
    colour, background = (
        table[field][:, :, None, None] for table, field in ((PALETTE, scene.colour), (BACKDROPS, scene.background))
    )
    levels = (mask * (colour - background)).add_(background).round_()
    return levels.mul_(2 / (LEVELS - 1)).sub_(1).float()


def captions(scene: Scene) -> list[str]:
    """What scenes show in words, such as "a small red circle at the top left"; the background is not told."""
    fields = torch.stack([scene.size, scene.colour, scene.shape, scene.position], 1).tolist()
    return [f"a {_SIZE[s]} {_COLOUR[c]} {_SHAPE[k]} {_POSITION[p]}" for s, c, k, p in fields]


def attributes_of(captions: Sequence[str]) -> Attributes:
    """What captions ask for, by their words; a caption may leave any out, and other words mean nothing.

    Raises:
        ValueError: a caption asks for two shapes, two colours, two sizes, or a position that there is not.
    """
    numbers = torch.tensor([_attributes_of(caption) for caption in captions], dtype=torch.int64)
    return Attributes(*numbers.reshape(-1, 4).unbind(1))


def _attributes_of(caption: str) -> tuple[int, int, int, int]:
    words = re.findall(r"[a-z]+", caption.lower())
    place = frozenset(words) & frozenset[str]().union(*_PLACES)
    if place and place not in _PLACES:
        raise ValueError(f"the caption '{caption}' names no position; positions are {', '.join(POSITIONS)}")
    position = _PLACES.index(place) if place else -1
    return _named(caption, words, _SHAPE), _named(caption, words, _COLOUR), position, _named(caption, words, _SIZE)


def _named(caption: str, words: list[str], names: list[str]) -> int:
    found = {names.index(word) for word in words if word in names}
    if len(found) > 1:
        raise ValueError(f"the caption '{caption}' asks for several of {', '.join(names)}; a picture shows one")
    return found.pop() if found else -1
