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
    """A law of motion for clips with one digit: constant speed in a known range, and reflection at the walls.

    Attributes:
        speed: the lowest and the highest speed, in pixels a frame.
    """

    speed: tuple[float, float]


def walls(image_size: int) -> tuple[float, float]:
    """Return the lowest and the highest coordinate that a digit's centre of mass reaches in a square frame, in pixels.

    At these walls, 5.25 pixels from the edges of the frame, the digit is reflected; they are the same on both axes.

    Args:
        image_size: H and W of the frame.
    """
    return MARGIN, image_size - MARGIN


def fold(u: Tensor, length: float) -> Tensor:
    """Return length - |length - (u mod 2 length)|: u in [0, length] stays, and u beyond is reflected at the walls.

    So a straight path u(t) becomes the path of a point that bounces between walls at 0 and ``length``.

    Args:
        u: positions on straight paths, of any shape.
        length: the distance of the walls.
    """
    return length - (length - u.remainder(2 * length)).abs()


def unfold(p: Tensor, u: Tensor, length: float) -> Tensor:
    """Return the points that :func:`fold` maps to positions p, each in the same mirror image of the box as u.

    A point that bounces between walls at 0 and ``length`` follows a straight line through mirror images of the box; the
    k-th one is [k length, (k + 1) length]. Of all points that fold maps to p, the one in the image that contains u is
    returned.

    Args:
        p: positions, in pixels, within [0, length] or a little outside.
        u: points of an unfolded path, of the shape of p; only the mirror image in which each lies counts.
        length: the distance of the walls.
    """
    branch = (u / length).floor()
    return branch * length + torch.where(branch.remainder(2) == 0, p, length - p)


def trajectory(start: Tensor, velocity: Tensor, num_frames: int, image_size: int) -> Tensor:
    """Return the positions in each frame of points that are reflected at the walls, (B, K, F, 2), in pixels.

    Args:
        start: x and y in frame 0, (B, K, 2), between the walls.
        velocity: x and y of the velocity in frame 0, in pixels a frame, (B, K, 2).
        num_frames: F.
        image_size: H and W, which determine the walls.
    """
    low, high = walls(image_size)
    f = torch.arange(num_frames, dtype=start.dtype)[:, None]  # (F, 1)
    return low + fold(start[:, :, None] - low + velocity[:, :, None] * f, high - low)
