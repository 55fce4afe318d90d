r"""The motion of a point that moves with constant velocity in a box and is reflected elastically at its walls.

On each axis, between walls at 0 and L, the position in frame f is

.. math:: p_f = \mathrm{fold}(s + v f), \qquad \mathrm{fold}(u) = L - |L - (u \bmod 2 L)|.

The line :math:`u_f = s + v f` is the unfolded path: it goes straight on into mirror images of the box. The fold maps it
back into the box; it is even in u and has the period 2 L. The two axes are independent. Lengths are in pixels, pixel i
reaches from i to i + 1, x points right and y down, and time is counted in frames. The clips of
``dataset=moving_digits`` obey this law.
"""

from typing import NamedTuple

import torch
from torch import Tensor

MARGIN = 5.25  # pixels from the frame's edge to a wall: no digit reaches farther from its centre of mass (at most 5.18)


class Physics(NamedTuple):
    """The law of motion of clips with one digit: constant speed in a known range, and reflection at the walls.

    Attributes:
        speed: the lowest and the highest speed, in pixels a frame.
    """

    speed: tuple[float, float]


def walls(image_size: int) -> tuple[float, float]:
    """Return the two coordinates at which a digit's centre of mass is reflected, in pixels, the same on both axes."""
    return MARGIN, image_size - MARGIN


def fold(u: Tensor, length: float) -> Tensor:
    """Return the positions in [0, length] of points u of unfolded paths: length - |length - (u mod 2 length)|."""
    return length - (length - u.remainder(2 * length)).abs()


def unfold(p: Tensor, u: Tensor, length: float) -> Tensor:
    """Return the point of the unfolded path that :func:`fold` maps to p, on the same branch as u.

    Branch k of the unfolded path is [k length, (k + 1) length], the k-th mirror image of the box.

    Args:
        p: positions, in pixels, within [0, length] or a little outside.
        u: points of an unfolded path, of the shape of p; only their branches matter.
        length: the distance of the walls.
    """
    branch = (u / length).floor()
    return branch * length + torch.where(branch.remainder(2) == 0, p, length - p)


def trajectory(start: Tensor, velocity: Tensor, num_frames: int, image_size: int) -> Tensor:
    """Return the positions in each frame of points that are reflected at the walls, (B, K, F, 2), in pixels.

    Args:
        start: x and y in frame 0, (B, K, 2), between the walls.
        velocity: pixels a frame, (B, K, 2).
        num_frames: F.
        image_size: H and W, which determine the walls.
    """
    low, high = walls(image_size)
    f = torch.arange(num_frames, dtype=start.dtype)[:, None]  # (F, 1)
    return low + fold(start[:, :, None] - low + velocity[:, :, None] * f, high - low)
