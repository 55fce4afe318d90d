"""Linear measurements :math:`y = A x_0` of clean samples, of which y may be known before x_0 is sampled.

A measurement gives three linear maps: :math:`A`, its transpose :math:`A^T`, and its pseudo-inverse :math:`A^+`, with
which

.. math:: x_0 + A^+ (y - A x_0)

is the point nearest to :math:`x_0` whose measurement is y. The maps act on batches (B, ...), of images (B, C, H, W)
and of clips (B, C, F, H, W), without building a matrix.

A measurement with :math:`A A^T = c I` is a coisometry up to a factor. Then :math:`A^+ = A^T / c`, and
:math:`(B A)^+ = A^+ B^+` for every B. So a mask may follow means of squares: ``Frames(mask) @ SquareMeans(2)``
measures some frames of a low-resolution clip.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional


class Measurement(ABC):
    """A linear map A of clean samples; a subclass defines :meth:`apply`, :meth:`adjoint` and :meth:`pseudo_inverse`."""

    @property
    def coisometric(self) -> bool:
        """Return whether :math:`A A^T = c I` for a number c, so that A can be the first of a product; here False."""
        return False

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """Return A x, (B, ...), for samples x (B, ...); each subclass defines it.

        Raises:
            ValueError: the samples have a shape that A cannot measure.
        """

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Return :math:`A^T y` of the samples' shape: <A x, y> = <x, :math:`A^T y`>; each subclass defines it."""

    @abstractmethod
    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """Return :math:`A^+ y`: of all samples x with A x nearest to y the smallest; each subclass defines it."""

    def residual(self, y: Tensor, x: Tensor) -> Tensor:
        """Return y - A x, like y; where A is a mask, it is 0 at numbers that the mask leaves out, whatever y is.

        Raises:
            ValueError: y does not have the shape of A x.
        """
        measured = self.apply(x)
        return of_equal_shape(y, measured) - measured

    def project(self, y: Tensor, x: Tensor) -> Tensor:
        """Return the point nearest to x whose measurement is y, :math:`x + A^+ (y - A x)`, like x."""
        return x + self.pseudo_inverse(self.residual(y, x))

    def frames(self, y: Tensor) -> Tensor:
        """Return a mask of the measured frames, bool, (B, F), for measurements y of clips, (B, C, F, ...).

        Only measurements that act on each frame by itself, and on all measured frames alike, have it.

        Raises:
            ValueError: this measurement acts on parts of frames, or on several together.
        """
        raise ValueError(
            f"{type(self).__name__} measures parts of frames, for which noise that frames share has no closed form; "
            "use noise=independent"
        )

    def each(self, change: Callable[[Tensor], Tensor]) -> "Measurement":
        """Return the measurement with ``change`` applied to its tensors, if any, such as masks; axis 0 is the batch."""
        return self

    def cat(self, others: Sequence["Measurement"]) -> "Measurement":
        """Return the measurement of a batch that joins the samples of this one and of ``others``.

        Raises:
            ValueError: the measurements are of different kinds.
        """
        if any(other != self for other in others):
            raise ValueError(f"different measurements cannot be joined: {self} and {list(others)}")
        return self

    def __matmul__(self, first: "Measurement") -> "Product":
        """Return the product of two measurements, of which ``first`` is applied first."""
        return Product(self, first)


_Kind = TypeVar("_Kind", bound=Measurement)


def _of_equal_kind(first: _Kind, others: Sequence[Measurement]) -> list[_Kind]:
    """Return ``others``, or raise a ValueError unless all are of the class of the first measurement."""
    same = [other for other in others if isinstance(other, type(first))]
    if len(same) < len(others):
        raise ValueError(f"different measurements cannot be joined: {first} and {list(others)}")
    return same


def of_equal_shape(y: Tensor, measured: Tensor) -> Tensor:
    """Return y, or raise a ValueError unless it has the shape of ``measured``, the measurement A x of samples."""
    if y.shape != measured.shape:
        raise ValueError(f"y {tuple(y.shape)} does not fit samples whose measurement is {tuple(measured.shape)}")
    return y


class Masked(Measurement):
    """A measurement that keeps numbers where a mask is True and is 0 elsewhere, a projection: :math:`A = A^T = A^+`."""

    mask: Tensor

    @abstractmethod
    def over(self, x: Tensor) -> Tensor:
        """Return the mask so that it broadcasts with samples x, or raise a ValueError; each subclass defines it."""

    def apply(self, x: Tensor) -> Tensor:
        return torch.where(self.over(x), x, 0.0)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.apply(y)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        return self.apply(y)

    def residual(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.where(self.over(x), of_equal_shape(y, x) - x, 0.0)

    def project(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.where(self.over(x), of_equal_shape(y, x), x)  # y itself, not x + (y - x)

    def cat(self, others: Sequence[Measurement]) -> Measurement:
        masks = [other.mask for other in _of_equal_kind(self, others)]
        return self.each(lambda mask: torch.cat([mask, *masks]))


@dataclass(frozen=True, eq=False)
class Frames(Masked):
    """A measurement of whole frames of clips (B, C, F, H, W); it is 0 in the other frames.

    Args:
        mask: bool, (B, F), True for measured frames.
    """

    mask: Tensor

    def over(self, x: Tensor) -> Tensor:
        if x.ndim != 5 or self.mask.shape != (len(x), x.shape[2]):
            raise ValueError(
                "a mask of frames (B, F) measures clips (B, C, F, H, W), but the mask is "
                f"{tuple(self.mask.shape)} and the samples are {tuple(x.shape)}"
            )
        return self.mask[:, None, :, None, None]

    def frames(self, y: Tensor) -> Tensor:
        return self.mask

    def each(self, change: Callable[[Tensor], Tensor]) -> Measurement:
        return Frames(change(self.mask))


@dataclass(frozen=True, eq=False)
class PixelMask(Masked):
    """A measurement of the pixels under a mask, as in inpainting; it is 0 elsewhere.

    Args:
        mask: bool, (B, ...), True for measured pixels; its other axes broadcast with those of samples, for example
            (B, 1, H, W).
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
    """A measurement with :math:`A A^T = c I` that acts on each frame of clips by itself, and on images like frames."""

    @property
    def coisometric(self) -> bool:
        return True

    def frames(self, y: Tensor) -> Tensor:
        return torch.ones(len(y), y.shape[2], dtype=torch.bool, device=y.device)


@dataclass(frozen=True)
class SquareMeans(EachFrame):
    """A measurement of the means of squares of f x f pixels: samples of a lower resolution, (B, ..., H / f, W / f).

    :math:`A A^T = I / f^2`, and :math:`A^+` repeats each mean over its square.

    Args:
        factor: f, the side of a square in pixels; it must divide H and W.
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
    r"""A measurement of a weighted sum over channels, :math:`y = \sum_c w_c x_c`: grey samples (B, 1, ...).

    :math:`A A^T = |w|^2 I`.

    Args:
        weights: w, one for each channel; those of luma (ITU-R BT.601) by default.
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
    """A measurement by A_1 and then by B, the map A = B A_1, which ``B @ A_1`` makes.

    Args:
        then: B.
        first: A_1, a coisometry up to a factor (:math:`A_1 A_1^T = c I`), since for others the pseudo-inverse of the
            product is not :math:`A_1^+ B^+`.

    Raises:
        ValueError: ``first`` is not a coisometry up to a factor.
    """

    then: Measurement
    first: Measurement

    def __post_init__(self) -> None:
        if not self.first.coisometric:
            raise ValueError(
                f"{type(self.first).__name__} must come last in a product of measurements, "
                f"not before {type(self.then).__name__}"
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
        products = _of_equal_kind(self, others)
        return Product(self.then.cat([p.then for p in products]), self.first.cat([p.first for p in products]))
