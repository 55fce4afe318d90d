r"""Updates of low rank as plain tensors, and their sum with the weights of a model.

With adapters i of weights :math:`w_i`, the weight W of a layer becomes

.. math:: W' = W + \sum_i w_i \frac{\alpha_i}{r_i} B_i A_i.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffsweep.errors import UserError


class LowRank(NamedTuple):
    r"""An update :math:`\frac{\alpha}{r} B A` of the weight of one layer.

    Attributes:
        down: A, the weight of a layer to r channels, (r, C, ...), with the kernel of the layer that is updated.
        up: B, the weight of a layer from r channels, (C', r, ...), with a kernel of 1.
        alpha: :math:`\alpha`.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """r, the number of rows of A."""
        return len(self.down)

    def delta(self, weight: float = 1.0) -> Tensor:
        """Return the update times a weight, (C', C, ...), in float64."""
        product = self.up.double().flatten(1) @ self.down.double().flatten(1)
        return product.reshape(len(self.up), *self.down.shape[1:]) * (weight * self.alpha / self.rank)

    def added_to(self, weight: Tensor) -> Tensor:
        """Return the sum of a layer's weight, (C', C, ...), and the update, rounded once to the weight's type."""
        return (weight.double() + self.delta().reshape(weight.shape).to(weight.device)).to(weight.dtype)


class Adapter(NamedTuple):
    """A set of updates of low rank of the layers of one model, its base.

    Attributes:
        updates: the update of each layer, by the layer's name in the base.
        base: the hash of the base's weights; None if it is not known, as in files of other programs.
    """

    updates: Mapping[str, LowRank]
    base: str | None = None


def misfit(adapter: Adapter, model: nn.Module) -> str | None:
    """Return in words why an adapter cannot be added to a model; None if it can.

    Args:
        adapter: the adapter; its hash is not looked at.
        model: the model.
    """
    weights = dict(model.named_modules())
    for name, update in adapter.updates.items():
        weight = getattr(weights.get(name), "weight", None)
        if not isinstance(weight, Tensor):
            return f"its layer {name} is none of this model"
        if weight.numel() != len(update.up) * update.down[0].numel() or len(weight) != len(update.up):
            shape, own = (
                " x ".join(map(str, each)) for each in ((len(update.up), *update.down.shape[1:]), weight.shape)
            )
            return f"its update of {name} is {shape}, and the weight of this model's layer is {own}"
    return None


@torch.no_grad()
def merge(model: nn.Module, adapters: Sequence[tuple[Adapter, float]]) -> Callable[[], None]:
    """Add adapters to the weights of a model, in place, and return a function that restores the weights to the bit.

    An adapter of weight 0 changes nothing. The sum is computed in float64 and rounded once.

    Args:
        model: the model.
        adapters: pairs of an adapter and its weight w.

    Raises:
        UserError: an adapter does not fit the model.
    """
    for adapter, _ in adapters:
        if (reason := misfit(adapter, model)) is not None:
            raise UserError(f"an adapter is of another base: {reason}")
    kept: list[tuple[Tensor, Tensor]] = []
    for name in dict.fromkeys(name for adapter, _ in adapters for name in adapter.updates):
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        kept.append((weight, weight.clone()))
        total = weight.double()
        for adapter, factor in adapters:
            if name in adapter.updates:
                total = total + adapter.updates[name].delta(factor).reshape(weight.shape).to(weight.device)
        weight.copy_(total)

    def restore() -> None:
        with torch.no_grad():
            for weight, before in kept:
                weight.copy_(before)

    return restore
