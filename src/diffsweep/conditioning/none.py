"""Models without a condition, which learn p(x_0)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from torch import Tensor

from diffsweep.conditioning.base import Conditioning

if TYPE_CHECKING:  # it imports Lightning, which takes seconds
    from diffsweep.datasets import Batch, Samples


class Unconditional(Conditioning):
    """A conditioning of unconditional models: the condition of every batch is None, and requests are empty batches."""

    sizes: Mapping[str, int] = MappingProxyType({})

    def condition(self, batch: Batch) -> None:
        return None

    def request(self, indices: Tensor, samples: Samples | None) -> Batch:
        return {}
