r"""Segments, bounding boxes and edges of images, which a control network or a network of p(x | picture) reads.

Segments are found by k-means of the colours of an image's pixels,

.. math:: \min_{\mu, s} \sum_p \lVert x_p - \mu_{s(p)} \rVert^2

and not by a trained network, so that any images can be split; edges are those of Canny (1986).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from diffsweep.degradations.base import Degradation
from diffsweep.diffusion import Noise

LEAST_CONTRAST = 0.1  # of [-1, 1]: colours that are nearer than this are of one segment
CHECKED = 8  # steps along an edge after which its end is looked for, since a GPU must be waited for


class Segmentation(Degradation):
    """A degradation that leaves of an image which of its pixels have about the same colour, in shades of grey.

    The pixels of an image are split into segments by their colours. The first centre is the mean colour of the pixels
    at the image's border, and each other one is the colour that is farthest from all before it; steps of k-means then
    move them to the mean colours of their segments. Segments are numbered in this order, so that the first is the
    background, and segment k of K has the grey value 2 k / (K - 1) - 1. So two segments are a white figure on black. A
    segment without pixels that differ from the background stays empty.

    Args:
        segments: K, the number of segments, at least 2.
        steps: the number of steps of k-means; with 0 the centres stay where they begin, which suits drawings of plain
            colours, whose means include the mixed colours of their edges.

    Raises:
        ValueError: fewer than 2 segments, or than 0 steps.
    """

    def __init__(self, segments: int = 2, steps: int = 0) -> None:
        if segments < 2:
            raise ValueError(f"degradation.segments must be at least 2, a figure and its background, not {segments}")
        if steps < 0:
            raise ValueError(f"degradation.steps must be at least 0, not {steps}")
        self.segments, self.steps, self.binary = segments, steps, segments == 2

    def numbers(self, x: Tensor) -> Tensor:
        """Return the number of each pixel's segment, int64, (B, H, W), of images x (B, C, H, W) in [-1, 1]."""
        pixels = x.detach().flatten(2).transpose(1, 2)  # (B, P, C)
        centres = [_border(x).mean(2)]  # (B, C)
        apart = (pixels - centres[0][:, None]).square().sum(2)  # (B, P), squared distances from the nearest centre
        for _ in range(1, self.segments):
            farthest = apart.argmax(1)
            centres.append(pixels[torch.arange(len(x), device=x.device), farthest])
            apart = torch.minimum(apart, (pixels - centres[-1][:, None]).square().sum(2))
        at = torch.stack(centres, 1)  # (B, K, C)
        for _ in range(self.steps):
            member = functional.one_hot(_nearest(pixels, at), self.segments).to(x)  # (B, P, K)
            count = member.sum(1)[:, :, None]
            at = torch.where(count > 0, member.transpose(1, 2) @ pixels / count.clamp(min=1), at)
        return _nearest(pixels, at).reshape(len(x), *x.shape[2:])

    def image(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        grey = self.numbers(x).to(x) * (2 / (self.segments - 1)) - 1
        return grey[:, None].expand(x.shape).contiguous()


class BoundingBox(Segmentation):
    """A degradation that leaves of an image the rectangle around its figure, white on black.

    The figure is all pixels that are not of the background, the first of two segments: see :class:`Segmentation`. An
    image without a figure is black.

    Args:
        steps: see :class:`Segmentation`.
    """

    def __init__(self, steps: int = 0) -> None:
        super().__init__(2, steps)

    def image(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        figure = self.numbers(x) > 0
        rows, columns = (_spanned(figure.any(axis)) for axis in (2, 1))  # (B, H), (B, W)
        box = rows[:, :, None] & columns[:, None, :]
        return (box[:, None].to(x) * 2 - 1).expand(x.shape).contiguous()


class Edges(Degradation):
    r"""A degradation that leaves of an image its edges by Canny's method (1986), as thin lines, white on black.

    The image is blurred by a Gaussian, and the gradient of Sobel is taken of the channel where it is largest. A pixel
    is an edge if its gradient is at least that of both neighbours along its direction, in steps of 45 degrees, and at
    least ``low``, and if such pixels connect it to one of at least ``high``.

    Args:
        low, high: the two thresholds of the gradient, in units of [-1, 1] per pixel, 0 < low <= high.
        sigma: the standard deviation of the blur in pixels, at least 0; 0 for none.

    Raises:
        ValueError: a setting is out of its range.
    """

    binary = True

    def __init__(self, low: float = 0.1, high: float = 0.25, sigma: float = 0.6) -> None:
        if not 0 < low <= high:
            raise ValueError(f"degradation.low={low:g} must be above 0 and at most degradation.high={high:g}")
        if sigma < 0:
            raise ValueError(f"degradation.sigma must be at least 0 pixels, not {sigma:g}")
        self.low, self.high, self.sigma = low, high, sigma

    def image(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        strength, direction = self._gradient(x.detach())
        padded = functional.pad(strength, (1, 1, 1, 1))
        height, width = strength.shape[1:]
        highest = torch.zeros_like(strength, dtype=torch.bool)
        for number, (down, right) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
            before, after = (padded[:, 1 + sign * down :, 1 + sign * right :][:, :height, :width] for sign in (-1, 1))
            highest |= (direction == number) & (strength >= before) & (strength > after)
        weak = highest & (strength >= self.low)
        found = weak & (strength >= self.high)
        for step in range(1, height * width):
            grown = functional.max_pool2d(found[:, None].to(x), 3, 1, 1)[:, 0].bool() & weak
            if step % CHECKED == 0 and torch.equal(grown, found):
                break
            found = grown
        return (found[:, None].to(x) * 2 - 1).expand(x.shape).contiguous()

    def _gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return length and direction of the gradient, (B, H, W), the direction in steps of 45 degrees, 0 to 3."""
        if self.sigma > 0:
            reach = max(1, math.ceil(3 * self.sigma))
            at = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
            weights = (-at.square() / (2 * self.sigma**2)).exp()
            weights = weights / weights.sum()
            for axes in ((1, 1, -1, 1), (1, 1, 1, -1)):
                x = _convolved(x, weights.reshape(axes), reach)
        smooth, slope = x.new_tensor([0.25, 0.5, 0.25]), x.new_tensor([-0.5, 0.0, 0.5])
        down = _convolved(x, slope[:, None] * smooth, 1)
        right = _convolved(x, smooth[:, None] * slope, 1)
        length = torch.hypot(down, right)
        strength, channel = length.max(1)
        down, right = (part.gather(1, channel[:, None])[:, 0] for part in (down, right))
        return strength, (torch.atan2(down, right) * (4 / math.pi)).round().long() % 4


def _convolved(x: Tensor, kernel: Tensor, reach: int) -> Tensor:
    """Return images convolved with a kernel in each channel; pixels outside are those at the border."""
    kernel = kernel.reshape(1, 1, *kernel.shape[-2:])
    rows, columns = (reach if size > 1 else 0 for size in kernel.shape[2:])
    padded = functional.pad(x, (columns, columns, rows, rows), mode="replicate")
    return functional.conv2d(padded, kernel.expand(x.shape[1], -1, -1, -1), groups=x.shape[1])


def _border(x: Tensor) -> Tensor:
    """Return the pixels at the border of images (B, C, H, W), (B, C, P); some of them twice."""
    return torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], 2)


def _nearest(pixels: Tensor, centres: Tensor) -> Tensor:
    """Return the number of the centre (B, K, C) that is nearest to each pixel (B, P, C), int64, (B, P).

    Centres that are nearer to the first than ``LEAST_CONTRAST`` get no pixels.
    """
    apart = (pixels[:, :, None] - centres[:, None]).square().sum(3)  # (B, P, K)
    same = (centres - centres[:, :1]).abs().amax(2) < LEAST_CONTRAST  # (B, K)
    same[:, 0] = False
    return apart.masked_fill(same[:, None], torch.inf).argmin(2)


def _spanned(found: Tensor) -> Tensor:
    """Return True from the first True to the last one of each row, bool, (B, N)."""
    return found.cummax(1).values & found.flip(1).cummax(1).values.flip(1)
