"""No conditioning."""

from collections.abc import Mapping

from torch import Tensor, nn


class Unconditional(nn.Module):
    """Every batch has no condition."""

    def forward(self, batch: Mapping[str, Tensor]) -> None:
        return None
