r"""Measure whether the digit of a generated clip moves as those of ``dataset=moving_digits`` do, without a network.

The digit's position c_f in frame f is the centre of mass of the pixels brighter than the background. By the law of
motion it should be :math:`p_f = \mathrm{fold}(s + v f)` on each axis: constant velocity v, whose sign changes at the
walls and nowhere else (:mod:`diffsweep.datasets.bouncing`). The main measure is the distance from the nearest such
path,

.. math:: \mathrm{motion\_error} = \min_{s, v} \big( \frac{1}{F} \sum_f |p_f(s, v) - c_f|^2 \big)^{1/2}.

Clips must have one digit each.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from diffsweep.datasets.bouncing import Physics, fold, unfold, walls
from diffsweep.datasets.moving_digits import SIDE, glyphs

FAINT = 0.08  # fraction of white: pixels less bright than this above the background count as noise
SLACK = 0.25  # pixels by which a measured centre may be off
INSIDE = 0.95  # the least part of a digit's ink that must lie in its square
STARTS = 0.25  # pixels between the starts that are tried
REFINEMENTS = 4
AT_ONCE = 2**22  # numbers held at once while paths are tried


class Track(NamedTuple):
    """A record of where the digit is in each frame of B clips, and how much ink the frame has.

    Attributes:
        centre: (B, F, 2) float64, x and y of the centre of mass in pixels; the middle of the frame if it shows nothing.
        mass: (B, F) float64, the ink of the frame: the sum over pixels of their brightness above the background, 1 for
            white on black.
        inside: (B, F) float64, the part of the mass within 5 pixels of the centre on each axis: half of a digit's side,
            and the pixel by which interpolation widens it.
    """

    centre: Tensor
    mass: Tensor
    inside: Tensor


class MotionNumbers(NamedTuple):
    """A record of how the digit of each of B clips moves, compared with the law of motion, each field (B,) float64.

    The law is a constant velocity in a range of speeds, and reflection at walls.

    Attributes:
        motion_error: the root mean squared distance of the measured centres from the nearest path that the law of
            motion allows, in pixels.
        speed: the root mean square over the steps without a bounce, in pixels a frame.
        speed_variation: the coefficient of variation of (|v_x|, |v_y|) over these steps; 0 for constant speed, and for
            no motion.
        bounce_violations: the share of the inner frames (all but the first and the last) in which a component of the
            velocity changes its sign away from the walls, or the digit is beyond a wall.
        digit_found: the share of frames with as much ink as a digit has, in as small a place.
    """

    motion_error: Tensor
    speed: Tensor
    speed_variation: Tensor
    bounce_violations: Tensor
    digit_found: Tensor


def track(x: Tensor) -> Track:
    """Find the digit in each frame of clips (B, 1, F, H, W) in [-1, 1], H = W, by its ink.

    The background is the median of a frame. Pixels brighter than it by more than 0.08 of the range from black to white
    are ink, of which the centre of mass is the digit's position.
    """
    frames = (x[:, 0].double().clamp(-1, 1) + 1) / 2  # (B, F, H, W)
    ink = frames - frames.flatten(2).median(2).values[..., None, None]
    ink = torch.where(ink > FAINT, ink, 0)
    size = x.shape[-1]
    along = torch.arange(size, dtype=ink.dtype, device=ink.device) + 0.5
    mass = ink.sum((2, 3))
    visible = mass > 0
    centre = torch.stack([ink.sum(2) @ along, ink.sum(3) @ along], dim=-1) / mass.clamp(min=1e-12)[..., None]
    centre = torch.where(visible[..., None], centre, size / 2)
    near = ((along - centre[..., None]).abs() <= SIDE / 2 + 1).to(ink.dtype)  # (B, F, 2, S)
    inside = torch.einsum("bfyx,bfx,bfy->bf", ink, near[:, :, 0], near[:, :, 1]) / mass.clamp(min=1e-12)
    return Track(centre, mass, inside)


def digit_crops(x: Tensor) -> Tensor:
    """Return the 8x8 pixels around the digit in each frame of clips (B, 1, F, H, W) in [-1, 1]: (B, F, 1, 8, 8).

    The centre of mass of the ink is in the middle, up to half a pixel, unless the square would leave the frame.
    """
    size = x.shape[-1]
    corner = (track(x).centre - SIDE / 2).round().long().clamp(0, size - SIDE)  # (B, F, 2)
    columns, rows = (corner[..., None] + torch.arange(SIDE, device=x.device)).unbind(2)  # (B, F, 8)
    clip, frame = (torch.arange(n, device=x.device) for n in rows.shape[:2])
    crops = x[clip[:, None, None, None], 0, frame[:, None, None], rows[..., :, None], columns[..., None, :]]
    return crops[:, :, None]


def nearest_path(centre: Tensor, image_size: int, speed: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return the path, of those that a digit bouncing between walls can take, that is nearest to measured centres.

    By the law of motion a path is fold(s + v f) on each axis in frame f: a line that is reflected at the walls. The sum
    of squared distances is minimised. The unfolded path of an axis is a line. So if the branch of each frame is known
    (how often the path was reflected), the fit is a linear regression; over all branches the sum of squares has many
    minima. Therefore starts and speeds of each axis are tried on a grid, the best pair of speeds whose size is allowed
    is chosen, and a few regressions on its branches refine it.

    Args:
        centre: the measured centres, (B, F, 2), in pixels.
        image_size: H and W.
        speed: the lowest and the highest speed that is allowed, pixels a frame.

    Returns:
        the path, (B, F, 2), in pixels, and the absolute velocity on each axis, (B, 2), in pixels a frame.
    """
    low, high = walls(image_size)
    length, count = high - low, centre.shape[1]
    # Neighbouring speeds of the grid are as far apart at the last frame as neighbouring starts. Starts in [0, 2 length)
    # cover both directions, since fold is even.
    steps = max(2, round(speed[1] * max(1, count - 1) / STARTS) + 1)
    v = torch.linspace(0, speed[1], steps, dtype=centre.dtype, device=centre.device)  # (V,)
    s = torch.arange(0, 2 * length, STARTS, dtype=centre.dtype, device=centre.device)  # (S,)
    clips = max(1, AT_ONCE // (2 * len(s) * len(v)))
    fits = [_nearest(some, s, v, length, speed) for some in (centre - low).split(clips)]
    path, velocity = (torch.cat(parts) for parts in zip(*fits, strict=True))
    return path + low, velocity


def _nearest(p: Tensor, s: Tensor, v: Tensor, length: float, speed: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return the path nearest to p (B, F, 2), and its |v|, trying starts s (S,) and speeds v (V,); a wall is at 0."""
    f = torch.arange(p.shape[1], dtype=p.dtype, device=p.device)
    paths = fold(s[:, None, None] + v[:, None] * f, length)  # (S, V, F)
    squares = p.square().sum(1)[:, :, None, None] + paths.square().sum(2)  # (B, 2, S, V)
    squares -= 2 * torch.einsum("bfa,svf->basv", p, paths)
    least, start = squares.min(2)  # (B, 2, V)
    pace = (v[:, None].square() + v.square()).sqrt()  # (V, V)
    allowed = (pace >= speed[0] - 1e-9) & (pace <= speed[1] + 1e-9)
    pair = torch.where(allowed, least[:, 0, :, None] + least[:, 1, None, :], torch.inf).flatten(1).argmin(1)
    chosen = torch.stack([pair // len(v), pair % len(v)], dim=1)  # (B, 2)
    fitted_s = s[start.gather(2, chosen[..., None])[..., 0]]  # (B, 2)
    fitted_v = v[chosen]
    best, best_v = _path(fitted_s, fitted_v, f, length), fitted_v
    error = (best - p).square().sum((1, 2))
    off = f - f.mean()
    for _ in range(REFINEMENTS):
        line = unfold(p, _line(fitted_s, fitted_v, f), length)
        fitted_v = _within((off[:, None] * line).sum(1) / off.square().sum().clamp(min=1e-12), speed)
        fitted_s = line.mean(1) - fitted_v * f.mean()
        path = _path(fitted_s, fitted_v, f, length)
        squared = (path - p).square().sum((1, 2))
        better = squared < error
        error = torch.where(better, squared, error)
        best = torch.where(better[:, None, None], path, best)
        best_v = torch.where(better[:, None], fitted_v, best_v)
    return best, best_v.abs()


def _line(s: Tensor, v: Tensor, f: Tensor) -> Tensor:
    """Return the unfolded paths s + v f of starts and velocities (B, 2), (B, F, 2)."""
    return s[:, None] + v[:, None] * f[:, None]


def _path(s: Tensor, v: Tensor, f: Tensor, length: float) -> Tensor:
    """Return the paths fold(s + v f) of starts and velocities (B, 2), (B, F, 2)."""
    return fold(_line(s, v, f), length)


def _within(velocity: Tensor, speed: tuple[float, float]) -> Tensor:
    """Return the velocities (B, 2) that are nearest to the given ones among those whose size is in the range."""
    size = velocity.norm(dim=1, keepdim=True)
    direction = torch.where(size > 0, velocity / size.clamp(min=1e-12), 0.5**0.5)  # any, if nothing moves
    return direction * size.clamp(*speed)


def motion(x: Tensor, speed: tuple[float, float] = (0.5, 2.0)) -> MotionNumbers:
    """Measure how the digit of each clip moves, and how far its motion is from constant velocity between walls.

    Args:
        x: clips of one digit, (B, 1, F, H, W) in [-1, 1], F at least 3, H = W.
        speed: the lowest and the highest speed of the data, pixels a frame. If 0 is not among them, a digit that stands
            still has a motion error above 0.

    Raises:
        ValueError: the clips have several channels, fewer than three frames, or are not square.
    """
    if x.dim() != 5 or x.shape[1] != 1 or x.shape[2] < 3 or x.shape[3] != x.shape[4]:
        raise ValueError(f"motion needs clips (B, 1, F, H, W) with F >= 3 and H = W, not {tuple(x.shape)}")
    size, found = x.shape[-1], track(x)
    path, _ = nearest_path(found.centre, size, speed)
    error = (path - found.centre).square().sum(2).mean(1).sqrt()
    rms, variation = _speeds(found.centre, size)
    ink = glyphs("train").ink.sum((1, 2))
    least, most = 0.9 * ink.min(), 1.1 * ink.max()
    digit = (found.mass >= least) & (found.mass <= most) & (found.inside >= INSIDE)
    return MotionNumbers(error, rms, variation, _violations(found.centre, size), digit.double().mean(1))


def motion_of_each(x: Tensor, physics: Physics) -> dict[str, Tensor]:
    """Return the fields of :class:`MotionNumbers` except ``speed`` of each clip, (B,), by name.

    Args:
        x: the clips, (B, 1, F, H, W) in [-1, 1], of one digit each.
        physics: the law of motion, with the range of speeds of the data.
    """
    numbers = motion(x, physics.speed)._asdict()
    return {name: each for name, each in numbers.items() if name != "speed"}


def _speeds(centre: Tensor, image_size: int) -> tuple[Tensor, Tensor]:
    """Return the speed over the steps of each axis without a bounce, and its coefficient of variation, both (B,).

    In a step with a bounce the distances from the wall before and after it add up to |v|. So in a step without a bounce
    the sum is larger than |v| for both walls. The longest step is taken for |v|, since a bounce makes a step shorter.
    """
    low, high = walls(image_size)
    step = centre.diff(dim=1).abs()  # (B, F - 1, 2)
    most = step.amax(1, keepdim=True) + SLACK
    to_walls = torch.stack([centre - low, high - centre])  # (2, B, F, 2)
    free = (to_walls[:, :, 1:] + to_walls[:, :, :-1] > most).all(0)  # (B, F - 1, 2)
    count = free.sum(1).clamp(min=1)
    mean = torch.where(free, step, 0).sum(1) / count  # (B, 2)
    variance = torch.where(free, (step - mean[:, None]).square(), 0).sum(1) / count
    rms = (mean.square() + variance).sum(1).sqrt()
    size = mean.norm(dim=1)
    return rms, torch.where(rms > 0, variance.sum(1).sqrt() / size.clamp(min=1e-6), 0)


def _violations(centre: Tensor, image_size: int) -> Tensor:
    """Return the share of the inner frames that violate the law of reflection, (B,).

    A reflection within a step of size |v| shows as a change of sign at the one of the step's two frames that is nearer
    to the wall, at most |v| / 2 from it.
    """
    low, high = walls(image_size)
    step = centre.diff(dim=1)  # (B, F - 1, 2)
    before, after, inner = step[:, :-1], step[:, 1:], centre[:, 1:-1]  # (B, F - 2, 2)
    turned = (before * after < 0) & (torch.minimum(before.abs(), after.abs()) > SLACK)
    reach = torch.maximum(before.abs(), after.abs()) / 2 + SLACK
    # A digit that comes with negative velocity turns at the low wall, else at the high one.
    to_wall = torch.where(before < 0, inner - low, high - inner)
    beyond = (inner < low - SLACK) | (inner > high + SLACK)
    return ((turned & (to_wall > reach)) | beyond).any(2).double().mean(1)
