"""The floating-point types in which a model is kept and computed, by the words of ``trainer.precision``.

A mixed precision keeps weights of float32, and computes matrix products and convolutions in 16 bits
(``torch.autocast``, arXiv:1710.03740). A true one keeps the weights themselves in a type.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Precision:
    """A pair of types: that of a network's weights, and that in which it multiplies.

    Attributes:
        weights: the type to which the weights are converted; None: they stay as they are, as those of float32.
        computed: the type of matrix products and convolutions under autocast; None for no autocast.
    """

    weights: torch.dtype | None = None
    computed: torch.dtype | None = None

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return a context in which operations on a device are computed in this precision.

        Without a type ``computed`` it changes nothing, so that a context around it, as in training, holds.
        """
        return nullcontext() if self.computed is None else torch.autocast(device.type, self.computed)

    def of_input(self, x: Tensor) -> Tensor:
        """Return the input of a network in the type of its weights, where that is narrower or wider than float32."""
        return x if self.weights is None else x.to(self.weights)

    @property
    def has_range_of_float32(self) -> bool:
        """Whether the largest number is not below that of float32, about 3e38, as that of float16, 65504, is."""
        return all(dtype is not torch.float16 for dtype in (self.weights, self.computed))


Products = Literal["highest", "high", "medium"]  # words of torch.set_float32_matmul_precision
AS_IS = Precision()  # float32, or the type to which a caller has converted a model
PRECISIONS = {  # by the word of ``trainer.precision``, in the order in which messages name them
    "32-true": AS_IS,
    "bf16-mixed": Precision(computed=torch.bfloat16),
    "16-mixed": Precision(computed=torch.float16),
    "bf16-true": Precision(weights=torch.bfloat16),
    "16-true": Precision(weights=torch.float16),
    "64-true": Precision(weights=torch.float64),
}
SHORT = {"None": "32-true", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}  # Lightning's too


class Computed:
    """A part of a model that is computed in a precision.

    Attributes:
        precision: the types of its weights and of its products; the model sets it.
    """

    precision: Precision = AS_IS


def precision_of(word: str | int | None) -> Precision:
    """Return the precision that ``trainer.precision`` names.

    Raises:
        ValueError: it is no such word.
    """
    name = str(word)
    if (found := PRECISIONS.get(SHORT.get(name, name))) is None:
        raise ValueError(f"trainer.precision={name}: no such precision; it is one of {', '.join(PRECISIONS)}")
    return found


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """Return a type, or float32 in place of a narrower one, whose rounding is too coarse for sums of small parts."""
    return torch.promote_types(dtype, torch.float32)


@contextmanager
def float32_products(word: Products) -> Iterator[None]:
    """Set how matrices of float32 are multiplied (torch.set_float32_matmul_precision) for a ``with`` statement.

    Afterwards, also after an exception, the process has the setting of before.

    Args:
        word: ``highest``: with the 24 bits of float32; ``high``: with TF32 (11 bits) or the sum of three products of
            bfloat16, on devices that have them; ``medium``: with bfloat16 (8 bits), on devices that have it.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(word)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
