r"""Linear measurements of clean samples, :math:`y = A x_0`: what may be known of a sample before it is drawn.

A measurement gives three linear maps: :math:`A`, its transpose :math:`A^T`, and its pseudo-inverse :math:`A^+`, by which

.. math:: x_0 + A^+ (y - A x_0)

is the point nearest to :math:`x_0` of which y is known. Everything here acts on batches (B, ...), images (B, C, H, W) and clips (B, C, F, H, W)
alike, and without building a matrix.

Where :math:`A A^T = c I`, A is a coisometry up to a factor: :math:`A^+ = A^T / c`, and for every B, :math:`(B A)^+ = A^+ B^+`. So a mask may
follow means of squares, ``Frames(mask) @ SquareMeans(2)``: the known frames of a low-resolution clip.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional


class Measurement(ABC):
    """A linear map A of clean samples. A subclass defines :meth:`apply`, :meth:`adjoint` and :meth:`pseudo_inverse`.

    Attributes:
        coisometric: whether :math:`A A^T = c I`, so that other measurements may follow.
    """

    @property
    def coisometric(self) -> bool:
        return False

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """Return A x, (B, ...), of samples x (B, ...).

        Raises:
            ValueError: the samples do not have a shape that can be measured so.
        """

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y, like samples: the inner products of A x and y, and of x and A^T y, are the same."""

    @abstractmethod
    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """Return A^+ y, like samples: of all that have the measurement nearest to y the smallest."""

    def residual(self, y: Tensor, x: Tensor) -> Tensor:
        """Return y - A x, 0 where y is hidden by a mask, whatever it is there.

        Raises:
            ValueError: y does not have the shape of A x.
        """
        measured = self.apply(x)
        return fitting(y, measured) - measured

    def project(self, y: Tensor, x: Tensor) -> Tensor:
        """Return the point nearest to x whose measurement is y, x + A^+ (y - A x)."""
        return x + self.pseudo_inverse(self.residual(y, x))

    def frames(self, y: Tensor) -> Tensor:
        """Return which frames of clips are measured, bool, (B, F), where each is measured by itself and all in the same way.

        Raises:
            ValueError: this measurement does not act so.
        """
        raise ValueError(
            f"{type(self).__name__} measures parts of frames, for which noise that frames share has no closed form; use noise=independent"
        )

    def each(self, change: Callable[[Tensor], Tensor]) -> "Measurement":
        """Return the measurement with its tensors changed, all of which have the batch first; without tensors, itself."""
        return self

    def cat(self, others: Sequence["Measurement"]) -> "Measurement":
        """Return the measurement of several batches in one.

        Raises:
            ValueError: they are of different kinds.
        """
        if any(other != self for other in others):
            raise ValueError(f"different measurements cannot be joined: {self} and {list(others)}")
        return self

    def __matmul__(self, first: "Measurement") -> "Product":
        """Return the measurement of a measurement, ``first`` being applied before this one."""
        return Product(self, first)


_Kind = TypeVar("_Kind", bound=Measurement)


def _of_kind(first: _Kind, others: Sequence[Measurement]) -> list[_Kind]:
    """Return measurements that are all of the kind of the first."""
    same = [other for other in others if isinstance(other, type(first))]
    if len(same) < len(others):
        raise ValueError(f"different measurements cannot be joined: {first} and {list(others)}")
    return same


def fitting(y: Tensor, measured: Tensor) -> Tensor:
    """Return y, which must have the shape of the measurement of samples."""
    if y.shape != measured.shape:
        raise ValueError(f"y {tuple(y.shape)} does not fit samples whose measurement is {tuple(measured.shape)}")
    return y


class Masked(Measurement):
    """Numbers of samples under a mask as they are, and 0 elsewhere: A is a projection, so :math:`A = A^T = A^+`."""

    mask: Tensor

    @abstractmethod
    def over(self, x: Tensor) -> Tensor:
        """Return the mask so that it broadcasts with samples."""

    def apply(self, x: Tensor) -> Tensor:
        return torch.where(self.over(x), x, 0.0)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.apply(y)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        return self.apply(y)

    def residual(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.where(self.over(x), fitting(y, x) - x, 0.0)

    def project(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.where(self.over(x), fitting(y, x), x)  # y itself, not x + (y - x)

    def cat(self, others: Sequence[Measurement]) -> Measurement:
        masks = [other.mask for other in _of_kind(self, others)]
        return self.each(lambda mask: torch.cat([mask, *masks]))


@dataclass(frozen=True, eq=False)
class Frames(Masked):
    """Whole frames of clips.

    Args:
        mask: True for frames that are known, (B, F).
    """

    mask: Tensor

    def over(self, x: Tensor) -> Tensor:
        if x.ndim != 5 or self.mask.shape != (len(x), x.shape[2]):
            raise ValueError(
                f"known frames are those of clips (B, C, F, H, W) with a mask (B, F), not of {tuple(x.shape)} with {tuple(self.mask.shape)}"
            )
        return self.mask[:, None, :, None, None]

    def frames(self, y: Tensor) -> Tensor:
        return self.mask

    def each(self, change: Callable[[Tensor], Tensor]) -> Measurement:
        return Frames(change(self.mask))


@dataclass(frozen=True, eq=False)
class PixelMask(Masked):
    """Pixels under a mask, as for inpainting.

    Args:
        mask: True for pixels that are known, (B, ...); its other axes broadcast with those of samples, (B, 1, H, W) for instance.
    """

    mask: Tensor

    def over(self, x: Tensor) -> Tensor:
        fits = self.mask.ndim == x.ndim and len(self.mask) == len(x)
        if not fits or any(own not in (1, size) for own, size in zip(self.mask.shape, x.shape, strict=True)):
            raise ValueError(f"a mask of pixels {tuple(self.mask.shape)} does not fit samples {tuple(x.shape)}")
        return self.mask

    def each(self, change: Callable[[Tensor], Tensor]) -> Measurement:
        return PixelMask(change(self.mask))


class EachFrame(Measurement):
    """A coisometry that measures each frame of clips by itself, and images as if they were frames."""

    @property
    def coisometric(self) -> bool:
        return True

    def frames(self, y: Tensor) -> Tensor:
        return torch.ones(len(y), y.shape[2], dtype=torch.bool, device=y.device)


@dataclass(frozen=True)
class SquareMeans(EachFrame):
    r"""Means of squares of f x f pixels: samples of a lower resolution (B, ..., H / f, W / f). :math:`A A^T = I / f^2`, and
    :math:`A^+` repeats each mean over its square.

    Args:
        factor: f, the side of a square.
    """

    factor: int

    def apply(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(f"squares of {self.factor} x {self.factor} pixels do not divide {height} x {width}")
        means = functional.avg_pool2d(x.flatten(1, -3), self.factor)  # (B, C, h, w), or (B, C F, h, w) of clips
        return means.reshape(*x.shape[:-2], height // self.factor, width // self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pseudo_inverse(y) / self.factor**2

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)


@dataclass(frozen=True)
class Grey(EachFrame):
    r"""A weighted sum over channels, :math:`y = \sum_c w_c x_c`: colourless samples (B, 1, ...). :math:`A A^T = |w|^2 I`.

    Args:
        weights: w, one of each channel; those of luma (ITU-R BT.601) by default.
    """

    weights: tuple[float, ...] = (0.299, 0.587, 0.114)

    def apply(self, x: Tensor) -> Tensor:
        if x.shape[1] != len(self.weights):
            raise ValueError(f"{len(self.weights)} weights of grey do not fit the {x.shape[1]} channels of samples")
        first, *others = (weight * x[:, c : c + 1] for c, weight in enumerate(self.weights))
        return sum(others, first)

    def adjoint(self, y: Tensor) -> Tensor:
        return torch.cat([weight * y for weight in self.weights], 1)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        return self.adjoint(y / sum(weight**2 for weight in self.weights))


@dataclass(frozen=True)
class Product(Measurement):
    """A measurement of a measurement, A = B A_1, as ``B @ A_1`` writes it.

    Args:
        then: B.
        first: A_1, a coisometry up to a factor, or else the pseudo-inverse of the product is not that of its parts.
    """

    then: Measurement
    first: Measurement

    def __post_init__(self) -> None:
        if not self.first.coisometric:
            raise ValueError(
                f"{type(self.first).__name__} must come last of a product of measurements, not before {type(self.then).__name__}"
            )

    @property
    def coisometric(self) -> bool:
        return self.then.coisometric

    def apply(self, x: Tensor) -> Tensor:
        return self.then.apply(self.first.apply(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.first.adjoint(self.then.adjoint(y))

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        return self.first.pseudo_inverse(self.then.pseudo_inverse(y))

    def residual(self, y: Tensor, x: Tensor) -> Tensor:
        return self.then.residual(y, self.first.apply(x))

    def frames(self, y: Tensor) -> Tensor:
        return self.then.frames(y) & self.first.frames(y)

    def each(self, change: Callable[[Tensor], Tensor]) -> Measurement:
        return Product(self.then.each(change), self.first.each(change))

    def cat(self, others: Sequence[Measurement]) -> Measurement:
        products = _of_kind(self, others)
        return Product(self.then.cat([p.then for p in products]), self.first.cat([p.first for p in products]))
