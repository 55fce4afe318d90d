r"""Measurements of images by one matrix along columns and one along rows, :math:`Y = R X C^T`, such as blurs.

With :math:`Y = R X C^T` for each channel X of an image, the adjoint is :math:`R^T Y C` and the pseudo-inverse
:math:`R^+ Y (C^+)^T`, since the pseudo-inverse of a Kronecker product is that of its factors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffsweep.diffusion.measurement import Measurement

CUT = 1e-2  # singular values below this share of the largest are 0: inverting them would only enlarge rounding errors


@dataclass(frozen=True, eq=False)
class Separable(Measurement):
    r"""A measurement :math:`Y = R X C^T` of each channel X of images or frames, (B, ..., H, W) to (B, ..., h, w).

    Args:
        rows: R, (B, h, H), the weights of the H rows of pixels in each row of Y; (1, h, H) for all samples alike.
        columns: C, (B, w, W) or (1, w, W), likewise of the columns.
        shared: whether the matrices are those of all samples; then their first size is 1.
    """

    rows: Tensor
    columns: Tensor
    shared: bool = True

    @cached_property
    def _inverses(self) -> tuple[Tensor, Tensor]:
        return torch.linalg.pinv(self.rows, rtol=CUT / 2), torch.linalg.pinv(self.columns, rtol=CUT / 2)

    def apply(self, x: Tensor) -> Tensor:
        (height, width), (rows, columns) = x.shape[-2:], (self.rows.shape[-1], self.columns.shape[-1])
        if (height, width) != (rows, columns):
            raise ValueError(f"a measurement of images of {rows} x {columns} pixels does not fit {height} x {width}")
        return _both(self.rows, x, self.columns)

    def adjoint(self, y: Tensor) -> Tensor:
        return _both(self.rows.mT, y, self.columns.mT)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        rows, columns = self._inverses
        return _both(rows, y, columns)

    def frames(self, y: Tensor) -> Tensor:
        return torch.ones(len(y), y.shape[2], dtype=torch.bool, device=y.device)

    def each(self, change: Callable[[Tensor], Tensor]) -> Measurement:
        return self if self.shared else Separable(change(self.rows), change(self.columns), shared=False)

    def cat(self, others: Sequence[Measurement]) -> Measurement:
        parts = [self, *(other for other in others if isinstance(other, Separable) and other.shared == self.shared)]
        if len(parts) > len(others):
            if not self.shared:
                return Separable(
                    torch.cat([part.rows for part in parts]), torch.cat([part.columns for part in parts]), shared=False
                )
            if all(torch.equal(p.rows, self.rows) and torch.equal(p.columns, self.columns) for p in parts):
                return self
        raise ValueError(f"different measurements cannot be joined: {self} and {list(others)}")


def without_small_values(matrix: Tensor, cut: float = CUT) -> Tensor:
    """Return matrices (..., m, n) without singular values below ``cut`` times the largest one of each.

    A measurement by the result can be inverted in float32: its pseudo-inverse enlarges nothing by more than 1 / ``cut``
    along either axis.
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = torch.where(values >= cut * values[..., :1], values, 0.0)
    return left * kept[..., None, :] @ right


def _both(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """Return :math:`R X C^T` of each channel and frame, (B, ..., h, w), of x (B, ..., H, W)."""
    y = rows.to(x)[:, None] @ x.flatten(1, -3) @ columns.to(x).mT[:, None]
    return y.reshape(*x.shape[:-2], *y.shape[-2:])
