"""Clips of real handwritten digits that move and bounce, rendered when they are asked for: works offline, any length and size."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffsweep.datasets.base import Batch, Samples, Split
from diffsweep.datasets.bouncing import MARGIN, Physics, trajectory, walls
from diffsweep.datasets.digits import NAMES, load_digits
from diffsweep.datasets.made import MadeData
from diffsweep.diffusion import Noise, Stream

SIDE = 8  # pixels of a digit
LEVELS = 256
SEED = 0xC11B  # the data's own: a run's seed does not change them
DRAWN = 5  # numbers that a digit of a clip is drawn by
AT_ONCE = 256  # clips rendered in one pass


class Glyphs(NamedTuple):
    """Digits to be moved."""

    ink: Tensor  # (M, 8, 8) float32 in [0, 1], rows first
    centre: Tensor  # (M, 2) float64, x and y of the centre of mass, in pixels from the top left corner
    label: Tensor  # (M,) int64


class Motion(NamedTuple):
    """What clips are."""

    glyph: Tensor  # (N, K) int64, the digits by their rows among glyphs
    start: Tensor  # (N, K, 2) float64, x and y of the centre of mass in frame 0, in pixels
    velocity: Tensor  # (N, K, 2) float64, pixels a frame


def glyphs(split: Split) -> Glyphs:
    """The digits of a split."""
    digits = load_digits(split)
    ink = (digits["x"][:, 0] + 1) / 2
    along = torch.arange(SIDE, dtype=torch.float64) + 0.5
    mass = ink.double().sum((1, 2))
    centre = torch.stack([(ink.sum(dim).double() @ along) / mass for dim in (1, 2)], dim=1)
    return Glyphs(ink, centre, digits["label"])


def draw(
    index: Tensor, val: Tensor, num_digits: int, counts: tuple[int, int], image_size: int, speed: Sequence[float]
) -> Motion:
    """The clips of an index: each digit uniform among those of its split, its start uniform between the walls, its direction uniform, its
    speed uniform in a range, all independent.

    Args:
        index: int64, (N,), at least 0: which clip of its split each is.
        val: bool, (N,): whether it is one of the held-out split.
        num_digits: K.
        counts: digits to choose from, in training and held out; the latter come after the former.
        image_size: H and W.
        speed: the least and the most, pixels a frame.
    """
    u = Noise(SEED, index, val.long()).uniform(DRAWN * num_digits, stream=Stream.DATA, dtype=torch.float64)
    u = u.unflatten(1, (num_digits, DRAWN))  # (N, K, 5)
    first = torch.where(val, counts[0], 0)[:, None]
    many = torch.where(val, counts[1], counts[0])[:, None]
    low, high = walls(image_size)
    angle, pace = 2 * math.pi * u[..., 3], speed[0] + (speed[1] - speed[0]) * u[..., 4]
    velocity = pace[..., None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    return Motion(first + (u[..., 0] * many).long(), low + (high - low) * u[..., 1:3], velocity)


def render(ink: Tensor, corner: Tensor, image_size: int) -> Tensor:
    """Digits at places between pixels, by bilinear interpolation, which keeps their mass and moves their centre of mass exactly.

    Args:
        ink: (B, K, 8, 8) in [0, 1].
        corner: (B, K, F, 2), x and y of the top left corner of each in each frame, in pixels.
        image_size: H and W.

    Returns:
        (B, 1, F, H, W) float32 in [-1, 1], on the grid of 256 levels; where digits overlap, the brighter.
    """
    apart = torch.arange(image_size)[:, None] - torch.arange(SIDE)  # (S, 8)
    share = (1 - (apart - corner[..., None, None]).abs()).clamp_(min=0).to(ink.dtype)  # (B, K, F, 2, S, 8)
    across, down = share.unbind(3)  # (B, K, F, S, 8)
    drawn = down @ (ink[:, :, None] @ across.mT)  # (B, K, F, S, S)
    levels = drawn.amax(1).mul_(LEVELS - 1).round_()
    return levels.mul_(2 / (LEVELS - 1)).sub_(1)[:, None]


class MovingDigitSamples(Samples):
    """Clips as samples: ``x``, ``label`` (the class of the first digit) and ``trajectory`` (the true paths of the digits' centres of mass,
    (N, K, F, 2) float32, x and y in pixels; drawn at whole pixels they are up to half a pixel off). Only what is asked for is rendered."""

    def __init__(self, motion: Motion, digits: Glyphs, num_frames: int, image_size: int, subpixel: bool) -> None:
        self.motion, self.digits, self.num_frames, self.image_size = motion, digits, num_frames, image_size
        self.subpixel = subpixel

    def __len__(self) -> int:
        return len(self.motion.glyph)

    def part(self, name: str) -> Any:
        rows = torch.arange(len(self)).split(AT_ONCE)
        make = self.rows if name == "x" else self.annotations
        return torch.cat([make(some)[name] for some in rows])

    def rows(self, index: Tensor) -> Batch:
        glyph, path = self.motion.glyph[index], self._path(index)
        corner = path - self.digits.centre[glyph][:, :, None]  # (B, K, F, 2)
        corner = corner if self.subpixel else corner.round()
        return {"x": render(self.digits.ink[glyph], corner, self.image_size), **self._annotations(glyph, path)}

    def annotations(self, index: Tensor) -> Batch:
        return self._annotations(self.motion.glyph[index], self._path(index))

    def _path(self, index: Tensor) -> Tensor:
        start, velocity = self.motion.start[index], self.motion.velocity[index]
        return trajectory(start, velocity, self.num_frames, self.image_size)

    def _annotations(self, glyph: Tensor, path: Tensor) -> Batch:
        return {"label": self.digits.label[glyph[:, 0]], "trajectory": path.float()}


class MovingDigits(MadeData):
    """scikit-learn's 8x8 digits, one or two a clip, each moving with constant speed and reflected at the walls, as in Moving MNIST
    (Srivastava et al. 2015, arXiv:1502.04681). Digits pass through each other.

    Clip i of a split is a function of i, so it is the same on any machine, in any batch and whatever the seed; more frames go on where fewer
    end. Training has digits of the training split of ``digits`` only, and the held-out clips have held-out digits only. A batch has also
    ``trajectory`` (B, K, F, 2), the truth about the motion: see :mod:`diffsweep.datasets.bouncing`.

    Args:
        channels, num_classes, levels, class_names: facts of the data, which exist for the configuration and cannot be changed.
        image_size: H and W; the digits have 8 pixels at any.
        num_frames: F.
        num_digits: 1 or 2 in each clip.
        speed: the least and the most, pixels a frame.
        subpixel: whether digits are drawn where they are, or at the nearest whole pixels, as in Moving MNIST: unblurred, and up to half a
            pixel off the path.
        num_train, num_val: clips of the two splits.
        batch_size, settings: those of :class:`~diffsweep.datasets.made.MadeData`.
    """

    provides = frozenset({"clips"})

    num_frames: int

    def __init__(
        self,
        channels: int = 1,
        image_size: int = 16,
        num_frames: int = 8,
        num_classes: int = 10,
        levels: int = LEVELS,
        class_names: Sequence[str] = NAMES,
        num_digits: int = 1,
        speed: Sequence[float] = (0.5, 2.0),
        subpixel: bool = True,
        num_train: int = 20_000,
        num_val: int = 500,
        batch_size: int = 32,
        **settings: Any,
    ) -> None:
        if (channels, num_classes, levels) != (1, 10, LEVELS):
            raise ValueError(f"moving digits have 1 channel, 10 classes and {LEVELS} levels; these cannot be changed")
        if tuple(class_names) != NAMES:
            raise ValueError(f"dataset.class_names of moving_digits is [{', '.join(NAMES)}]; it cannot be changed")
        if num_digits not in (1, 2):
            raise ValueError(f"dataset.num_digits must be 1 or 2, not {num_digits}")
        if num_frames < 1:
            raise ValueError(f"dataset.num_frames must be at least 1, not {num_frames}")
        if len(speed) != 2 or not 0 <= speed[0] <= speed[1]:
            raise ValueError(f"dataset.speed is [least, most] in pixels a frame, such as [0.5, 2.0], not {list(speed)}")
        low, high = walls(image_size)
        if high - low <= speed[1]:
            raise ValueError(
                f"dataset.image_size={image_size} leaves a digit {max(0.0, high - low)} pixels to move, and it moves up to {speed[1]} a frame; use "
                f"an image_size above {2 * MARGIN + speed[1]}, or a lower dataset.speed"
            )
        facts = {
            "channels": channels,
            "image_size": image_size,
            "num_classes": num_classes,
            "levels": levels,
            "num_frames": num_frames,
        }
        super().__init__(num_train=num_train, num_val=num_val, batch_size=batch_size, **facts, **settings)
        self.num_digits, self.subpixel, self.speed = num_digits, subpixel, (float(speed[0]), float(speed[1]))

    @property
    def physics(self) -> Physics | None:
        """Of one digit a clip, and three frames at least, which show a change of velocity."""
        return Physics(self.speed) if self.num_digits == 1 and self.num_frames >= 3 else None

    def made(self, index: Tensor, val: Tensor) -> Samples:
        train, held_out = glyphs("train"), glyphs("val")
        digits = Glyphs(*(torch.cat(pair) for pair in zip(train, held_out, strict=True)))
        motion = draw(index, val, self.num_digits, (len(train.ink), len(held_out.ink)), self.image_size, self.speed)
        return MovingDigitSamples(motion, digits, self.num_frames, self.image_size, self.subpixel)

    @property
    def fingerprint(self) -> str:
        """Return sizes, and a hash of the first clips, so of how these move and are drawn too."""
        return self.identified(f"moving-digits-{self.num_frames}x{self.image_size}-{self.num_digits}", self.speed)
