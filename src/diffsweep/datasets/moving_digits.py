"""Clips of handwritten digits that move and bounce off walls, rendered on demand, at any size, without a download."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffsweep.datasets.bouncing import MARGIN, Physics, trajectory, walls
from diffsweep.datasets.digits import NAMES, load_digits
from diffsweep.datasets.samples import Batch, Samples, Split
from diffsweep.datasets.synthetic import SyntheticData
from diffsweep.diffusion import Noise, Stream

SIDE = 8  # pixels of a digit
LEVELS = 256
SEED = 0xC11B  # the dataset's own seed: a run's seed does not change the clips
DRAWN = 5  # random numbers for each digit of a clip: which digit, x, y, direction, speed
AT_ONCE = 256  # clips rendered in one pass


class Glyphs(NamedTuple):
    """A table of M handwritten digits: their images, centres of mass and classes.

    Attributes:
        ink: float32, (M, 8, 8) in [0, 1], 1 for white.
        centre: float64, (M, 2): x and y of the centre of mass, in pixels from the top left corner.
        label: int64, (M,), the classes 0 to 9.
    """

    ink: Tensor
    centre: Tensor
    label: Tensor


class Motion(NamedTuple):
    """A description of N clips: which K digits each shows, where they start and how they move.

    Attributes:
        glyph: int64, (N, K), the row of each digit in a table :class:`Glyphs`.
        start: float64, (N, K, 2): x and y of the centre of mass in frame 0, in pixels.
        velocity: float64, (N, K, 2): x and y of the velocity in frame 0, pixels a frame.
    """

    glyph: Tensor
    start: Tensor
    velocity: Tensor


def glyphs(split: Split) -> Glyphs:
    """Return the images, centres and classes of scikit-learn's handwritten digits in a split, for clips to be drawn of.

    Args:
        split: ``train``, ``val`` or ``all``.
    """
    digits = load_digits(split)
    ink = (digits["x"][:, 0] + 1) / 2
    along = torch.arange(SIDE, dtype=torch.float64) + 0.5
    mass = ink.double().sum((1, 2))
    centre = torch.stack([(ink.sum(dim).double() @ along) / mass for dim in (1, 2)], dim=1)
    return Glyphs(ink, centre, digits["label"])


def draw(
    index: Tensor, val: Tensor, num_digits: int, counts: tuple[int, int], image_size: int, speed: Sequence[float]
) -> Motion:
    """Draw the digits and motions of clips; those of a clip depend on its number and its split alone.

    Independently for each digit of a clip: the digit is uniform among those of its split, its start is uniform between
    the walls that reflect it, its direction is uniform, and its speed is uniform in a range.

    Args:
        index: int64, (N,), at least 0: the number of each clip in its split.
        val: bool, (N,): True for a clip of the held-out split, False for one of the training split.
        num_digits: K, digits in a clip.
        counts: number of training digits and of held-out digits to choose from; in the table of digits the held-out
            ones come last.
        image_size: H and W.
        speed: the lowest and the highest speed, pixels a frame.
    """
    u = Noise(SEED, index, val.long()).uniform(DRAWN * num_digits, stream=Stream.DATA, dtype=torch.float64)
    u = u.unflatten(1, (num_digits, DRAWN))  # (N, K, 5)
    first = torch.where(val, counts[0], 0)[:, None]
    available = torch.where(val, counts[1], counts[0])[:, None]
    low, high = walls(image_size)
    angle, pace = 2 * math.pi * u[..., 3], speed[0] + (speed[1] - speed[0]) * u[..., 4]
    velocity = pace[..., None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    return Motion(first + (u[..., 0] * available).long(), low + (high - low) * u[..., 1:3], velocity)


def render(ink: Tensor, corner: Tensor, image_size: int) -> Tensor:
    """Render digits at given positions, which may lie between pixels, into clips by bilinear interpolation.

    Interpolation keeps each digit's mass and moves its centre of mass exactly (up to the rounding to levels).

    Args:
        ink: the digits, (B, K, 8, 8) in [0, 1].
        corner: x and y of each digit's top left corner in each frame, in pixels, (B, K, F, 2).
        image_size: H and W.

    Returns:
        clips (B, 1, F, H, W) float32 in [-1, 1], rounded to 256 levels; where digits overlap, the brighter one is
        shown.
    """
    apart = torch.arange(image_size)[:, None] - torch.arange(SIDE)  # (S, 8)
    share = (1 - (apart - corner[..., None, None]).abs()).clamp_(min=0).to(ink.dtype)  # (B, K, F, 2, S, 8)
    across, down = share.unbind(3)  # (B, K, F, S, 8)
    drawn = down @ (ink[:, :, None] @ across.mT)  # (B, K, F, S, S)
    levels = drawn.amax(1).mul_(LEVELS - 1).round_()
    return levels.mul_(2 / (LEVELS - 1)).sub_(1)[:, None]


class MovingDigitSamples(Samples):
    """A table of clips of moving digits that are rendered when they are requested.

    The annotations are ``label``, the class of the first digit, and ``trajectory``, the true x and y of each digit's
    centre of mass in each frame, (N, K, F, 2) float32, in pixels. With ``subpixel=False`` the rendered digits are up to
    half a pixel off it on each axis.

    Args:
        motion: the digits and motions of the N clips.
        digits: the images of the digits.
        num_frames, image_size: F, and H = W.
        subpixel: render digits at their exact positions instead of at the nearest whole pixels.
    """

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


class MovingDigits(SyntheticData):
    """A dataset of clips of one or two moving digits, as in Moving MNIST (Srivastava et al. 2015, arXiv:1502.04681).

    Each digit moves with constant speed and is reflected at walls 5.25 pixels inside the frame; digits pass through
    each other. Clip i of a split is the same on any machine, in any batch and with any seed; with a larger
    ``num_frames`` the same clip goes on. Training clips show training digits of ``dataset=digits`` only, held-out clips
    show its held-out digits only. Batches also have ``trajectory`` (B, K, F, 2), the true x and y of each digit's
    centre of mass in pixels, which follows the formula of :mod:`diffsweep.datasets.bouncing`.

    Args:
        channels, num_classes, levels, class_names: constants of the data, which are arguments so that the configuration
            can state them; other values raise a ValueError.
        image_size: H and W; the digits have 8x8 pixels in images of any size.
        num_frames: F.
        num_digits: K, 1 or 2 in each clip.
        speed: the lowest and the highest speed, pixels a frame.
        subpixel: render digits at their exact positions, by interpolation. False renders them at the nearest whole
            pixels, as in Moving MNIST: sharp, and up to half a pixel off the path on each axis.
        num_train, num_val: number of training and of held-out clips.
        batch_size, settings: further arguments of :class:`~diffsweep.datasets.base.ImageData`.

    Raises:
        ValueError: a setting is out of its range, or the image leaves a digit too little room to move at this speed.
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
            raise ValueError(
                f"dataset.speed must be [lowest, highest] in pixels a frame, such as [0.5, 2.0], not {list(speed)}"
            )
        low, high = walls(image_size)
        if high - low <= speed[1]:
            raise ValueError(
                f"dataset.image_size={image_size} leaves a digit {max(0.0, high - low)} pixels to move, and it moves "
                f"up to {speed[1]} a frame; use an image_size above {2 * MARGIN + speed[1]}, or a lower dataset.speed"
            )
        sizes = {
            "channels": channels,
            "image_size": image_size,
            "num_classes": num_classes,
            "levels": levels,
            "num_frames": num_frames,
        }
        super().__init__(num_train=num_train, num_val=num_val, batch_size=batch_size, **sizes, **settings)
        self.num_digits, self.subpixel, self.speed = num_digits, subpixel, (float(speed[0]), float(speed[1]))

    @property
    def physics(self) -> Physics | None:
        """Return the law of motion of clips with one digit; None with two digits or with fewer than three frames."""
        return Physics(self.speed) if self.num_digits == 1 and self.num_frames >= 3 else None

    def samples_at(self, index: Tensor, val: Tensor) -> Samples:
        train, held_out = glyphs("train"), glyphs("val")
        digits = Glyphs(*(torch.cat(pair) for pair in zip(train, held_out, strict=True)))
        motion = draw(index, val, self.num_digits, (len(train.ink), len(held_out.ink)), self.image_size, self.speed)
        return MovingDigitSamples(motion, digits, self.num_frames, self.image_size, self.subpixel)

    @property
    def fingerprint(self) -> str:
        """Return a text that is equal for equal data and different otherwise.

        It has the sizes of clips and splits, and a hash of the speeds and of the first 64 clips of each split.
        """
        return self.fingerprint_of(f"moving-digits-{self.num_frames}x{self.image_size}-{self.num_digits}", self.speed)
