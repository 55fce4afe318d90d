r"""Images of which some pixels are known, :math:`y = m \odot x_0` with a mask m, for inpainting and outpainting."""

from abc import abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor

from diffsweep.degradations.base import LinearDegradation, Range, bounds, one_of
from diffsweep.diffusion import Known, Noise, PixelMask

Place = Literal["any", "centre"]
Missing = Literal["left", "right", "top", "bottom", "any", "all"]


class Mask(LinearDegradation):
    """A degradation that hides pixels: a network reads 0 in their place, and the mask as a further channel.

    The mask is True (1 in its channel) where pixels are known. So an image of zeros, the null condition, is one of
    which nothing is known. Each mask has known and unknown pixels. Subclasses define :meth:`unknown`.

    Args:
        mask_channel: whether the network reads the mask too; without it, 0 is grey or unknown.
    """

    def __init__(self, mask_channel: bool = True) -> None:
        self.extra_channels = int(mask_channel)

    @abstractmethod
    def unknown(self, height: int, width: int, noise: Noise | None) -> Tensor:
        """Return which pixels are hidden: bool, (B, H, W), or (1, H, W) for all samples alike; subclasses define it.

        Args:
            height, width: H and W.
            noise: the random numbers of the samples; None for a mask that draws none.
        """

    def check(self, channels: int, image_size: int) -> None:
        if image_size < 2:
            raise ValueError(f"degradation: a mask hides a part of an image of at least 2 pixels, not {image_size}")

    def measurement(self, x: Tensor, noise: Noise | None = None) -> PixelMask:
        height, width = x.shape[-2:]
        mask = ~self.unknown(height, width, noise).to(x.device)
        return PixelMask(mask[:, None].expand(len(x), 1, height, width))

    def given(self, images: Tensor) -> tuple[Tensor, Known | None]:
        raise ValueError("an image does not state which of its pixels are hidden; give whole images, which are masked")

    def picture(self, known: Known) -> Tensor:
        assert isinstance(known.measurement, PixelMask)
        y = known.measurement.apply(known.y)
        return torch.cat([y, known.measurement.mask.to(y)], 1) if self.extra_channels else y


class Box(Mask):
    """A mask that hides a rectangle inside the image.

    Args:
        share: the sides of the rectangle as a share of those of the image, above 0 and below 1; or a range [low, high]
            from which height and width are drawn, each for itself. Sides are rounded down, to at least one pixel and
            not the whole image.
        place: ``any``: the rectangle's place is drawn; ``centre``: it is in the middle.
        mask_channel: see :class:`Mask`.

    Raises:
        ValueError: a share that is not above 0 and below 1, or an unknown place.
    """

    def __init__(self, share: Range = (0.3, 0.6), place: Place = "any", mask_channel: bool = True) -> None:
        super().__init__(mask_channel)
        self.low, self.high = _shares("share", share)
        one_of("place", place, get_args(Place))
        self.place = place
        self.random = self.low < self.high or place == "any"

    def unknown(self, height: int, width: int, noise: Noise | None) -> Tensor:
        u = self.uniform(noise, 4) if self.random else torch.full((1, 4), 0.5)
        sides = []
        for axis, size in enumerate((height, width)):
            length = _pixels(size, self.low, self.high, u[:, axis])  # (B,)
            free = size - length
            first = free // 2 if self.place == "centre" else (u[:, 2 + axis] * (free + 1)).long()
            at = torch.arange(size, device=u.device)
            sides.append((at >= first[:, None]) & (at < (first + length)[:, None]))
        return sides[0][:, :, None] & sides[1][:, None, :]


class Border(Mask):
    """A mask that hides the image from an edge on: a half, a strip to outpaint, or all but the middle.

    Args:
        share: the share of the image's side that is hidden, above 0 and below 1; or a range [low, high] to draw it
            from. It is rounded down to whole pixels, at least one and not the whole side.
        missing: ``left``, ``right``, ``top`` or ``bottom``; ``any``: one of them, drawn for each sample; ``all``: half
            of the share at each of the four edges, so that a square in the middle is known.
        mask_channel: see :class:`Mask`.

    Raises:
        ValueError: a share that is not above 0 and below 1, or an unknown edge.
    """

    def __init__(self, share: Range = 0.5, missing: Missing = "right", mask_channel: bool = True) -> None:
        super().__init__(mask_channel)
        self.low, self.high = _shares("share", share)
        one_of("missing", missing, get_args(Missing))
        self.missing, self.random = missing, self.low < self.high or missing == "any"

    def unknown(self, height: int, width: int, noise: Noise | None) -> Tensor:
        u = self.uniform(noise, 2) if self.random else torch.full((1, 2), 0.5)
        rows, columns = (_pixels(size, self.low, self.high, u[:, 0])[:, None] for size in (height, width))  # (B, 1)
        down, right = torch.arange(height, device=u.device), torch.arange(width, device=u.device)
        if self.missing == "all":
            known_rows = (down >= rows // 2) & (down < height - (rows - rows // 2))
            known_columns = (right >= columns // 2) & (right < width - (columns - columns // 2))
            return ~(known_rows[:, :, None] & known_columns[:, None, :])
        nothing = torch.zeros(len(u), height, width, dtype=torch.bool, device=u.device)
        edges = torch.stack(
            [
                nothing | (right < columns)[:, None, :],
                nothing | (right >= width - columns)[:, None, :],
                nothing | (down < rows)[:, :, None],
                nothing | (down >= height - rows)[:, :, None],
            ]
        )
        if self.missing != "any":
            return edges[get_args(Missing).index(self.missing)]
        chosen = (u[:, 1] * 4).long()
        return edges[chosen, torch.arange(len(u), device=u.device)]


class Strokes(Mask):
    """A mask that hides strokes as of a brush: chains of straight segments (Yu et al. 2019, arXiv:1806.03589).

    Args:
        count: the number of strokes, at least 1; or a range [low, high] to draw it from.
        width: the width of a stroke as a share of the image's side, above 0 and at most 0.3; or a range to draw it
            from. It is at least one pixel and a half.
        segments: the segments of a stroke, at least 1.
        length: the length of a segment as a share of the image's side.
        most: the largest share of hidden pixels, above 0 and below 1. A segment with which more would be hidden is left
            out, but never the first.
        mask_channel: see :class:`Mask`.

    Raises:
        ValueError: a setting out of its range.
    """

    random = True

    def __init__(
        self,
        count: Range = (1, 4),
        width: Range = (0.05, 0.15),
        segments: int = 3,
        length: float = 0.4,
        most: float = 0.75,
        mask_channel: bool = True,
    ) -> None:
        super().__init__(mask_channel)
        self.count, self.width = bounds("count", count, 1, 100), bounds("width", width, 1e-3, 0.3)
        if segments < 1 or length <= 0:
            raise ValueError(f"degradation.segments and length must be above 0, not {segments} and {length}")
        _shares("most", most)
        self.segments, self.length, self.most = segments, length, most

    def check(self, channels: int, image_size: int) -> None:
        if image_size < 4:
            raise ValueError(f"degradation: strokes hide a part of an image of at least 4 pixels, not {image_size}")

    def unknown(self, height: int, width: int, noise: Noise | None) -> Tensor:
        strokes, each = int(self.count[1]), 3 + self.segments  # numbers of a stroke: first point, width, angles
        u = self.uniform(noise, 1 + strokes * each).double()
        low, high = int(self.count[0]), strokes
        count = low + (u[:, 0] * (high - low + 1)).long()  # (B,)
        side, u = max(height, width), u[:, 1:].unflatten(1, (strokes, each))
        down = torch.arange(height, device=u.device)[:, None] + 0.5
        right = torch.arange(width, device=u.device) + 0.5
        unknown = torch.zeros(len(u), height, width, dtype=torch.bool, device=u.device)
        for stroke in range(strokes):
            y, x = u[:, stroke, 0] * height, u[:, stroke, 1] * width
            radius = (self.width[0] + (self.width[1] - self.width[0]) * u[:, stroke, 2]) * side / 2
            angle = torch.zeros_like(y)
            for segment in range(self.segments):  # each turns by up to a right angle, the first by any
                turn = u[:, stroke, 3 + segment] - 0.5
                angle = angle + turn * (2 * torch.pi if segment == 0 else torch.pi)
                next_y = (y + self.length * side * angle.sin()).clamp(0, height)
                next_x = (x + self.length * side * angle.cos()).clamp(0, width)
                near = _near_segment(down, right, y, x, next_y - y, next_x - x, radius.clamp(min=0.75))
                together = unknown | near
                fits = together.flatten(1).double().mean(1) <= self.most
                if stroke == segment == 0:
                    fits = torch.ones_like(fits)
                unknown = torch.where((fits & (stroke < count))[:, None, None], together, unknown)
                y, x = next_y, next_x
        return unknown


def _near_segment(
    down: Tensor, right: Tensor, y: Tensor, x: Tensor, step_y: Tensor, step_x: Tensor, radius: Tensor
) -> Tensor:
    """Return which pixels are within a radius of the segment from (y, x) to (y, x) + step, bool, (B, H, W)."""
    y, x, step_y, step_x, radius = (part[:, None, None] for part in (y, x, step_y, step_x, radius))
    from_y, from_x = down - y, right - x  # (B, H, 1), (B, 1, W)
    along = (from_y * step_y + from_x * step_x) / (step_y**2 + step_x**2).clamp(min=1e-12)
    along = along.clamp(0, 1)
    return (from_y - along * step_y) ** 2 + (from_x - along * step_x) ** 2 <= radius**2


def _shares(key: str, value: Range) -> tuple[float, float]:
    """Return the ends of a share or a range of shares, or raise a ValueError unless they lie in (0, 1)."""
    low, high = bounds(key, value, 0.0, 1.0)
    if low <= 0 or high >= 1:
        raise ValueError(f"degradation.{key} hides a part of the image, so it is above 0 and below 1, not {value}")
    return low, high


def _pixels(size: int, low: float, high: float, u: Tensor) -> Tensor:
    """Return a number of pixels between two shares of ``size``, each equally likely for uniform u, int64, (B,).

    Shares are rounded down, to at least 1 pixel and at most ``size`` - 1.
    """
    least, most = (min(max(int(size * share + 1e-6), 1), size - 1) for share in (low, high))
    return least + (u.double() * (most - least + 1)).long()
