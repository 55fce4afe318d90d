"""Models without a condition, which learn p(x_0)."""

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from diffsweep.conditioning.base import Conditioning
from diffsweep.datasets import Batch, Samples


class Unconditional(Conditioning):
    """A conditioning of unconditional models: the condition of every batch is None, and requests are empty."""

    sizes: Mapping[str, int] = MappingProxyType({})

    def condition(self, batch: Batch) -> None:
        return None

    def request(self, indices: Tensor, samples: Samples | None) -> Batch:
        return {}
