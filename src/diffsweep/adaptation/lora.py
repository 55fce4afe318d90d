r"""Low-rank adaptation (LoRA, Hu et al. 2021, arXiv:2106.09685): a frozen layer gets a trained update of low rank.

A linear layer or convolution with weight :math:`W \in \mathbb{R}^{d' \times d}` becomes

.. math:: y = W x + b + \frac{\alpha}{r} B A D(x), \quad
    A \in \mathbb{R}^{r \times d}, B \in \mathbb{R}^{d' \times r},

with dropout D. A is random and B is 0 at the start, so that the layer starts as it was. Only A and B train,
:math:`r (d + d')` numbers in place of :math:`d d'`. Afterwards they can be *merged*, :math:`W' = W + \frac{\alpha}{r} B
A`, and the layer is a plain one again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffsweep.adaptation.base import Adaptation, matched
from diffsweep.adaptation.low_rank import Adapter, LowRank
from diffsweep.errors import UserError
from diffsweep.layers import Pointwise
from diffsweep.models import Model

NAME = "default"  # peft's name of an adapter that has no other
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Pointwise)  # of layers; subclasses may compute something else
BASE = ".base_layer."  # in the names of the weights of the layers that peft has wrapped


class Lora(Adaptation):
    r"""An adaptation by updates of low rank :math:`\frac{\alpha}{r} B A` of chosen layers, which peft adds.

    The adapted model starts as the base: its outputs are the same to the bit. By default nothing but A and B trains.
    Layers that can be chosen are linear layers and convolutions in one group.

    Args:
        base, run, weights, train, whole: see :class:`Adaptation`.
        rank: r, the rank of each update.
        alpha: :math:`\alpha`; null: r, so that the factor :math:`\alpha / r` is 1.
        dropout: the probability, in [0, 1), that an entry of the input of A is 0 in a training step.
        targets: patterns of the names of the layers, such as ``denoiser.backbone.*.to_qkv``.

    Raises:
        ValueError: the rank is below 1, alpha is not above 0, or the dropout is outside [0, 1).
    """

    def __init__(
        self,
        base: Callable[[], Model],
        run: str | None = None,
        weights: str | None = None,
        train: Sequence[str] = (),
        whole: bool = False,
        rank: int = 4,
        alpha: float | None = None,
        dropout: float = 0.0,
        targets: Sequence[str] = ("denoiser.*.to_*",),
    ) -> None:
        super().__init__(base, run, weights, train, whole)
        if rank < 1:
            raise ValueError(f"adaptation.rank must be at least 1, not {rank}")
        if alpha is not None and not alpha > 0:
            raise ValueError(f"adaptation.alpha must be above 0, not {alpha}; null is the rank")
        if not 0 <= dropout < 1:
            raise ValueError(f"adaptation.dropout must be in [0, 1), not {dropout}")
        self.rank, self.alpha, self.dropout = rank, float(rank if alpha is None else alpha), dropout
        self.targets = tuple(targets)

    def change(self, model: Model) -> None:
        """Add A and B to the chosen layers of a model, in place.

        Raises:
            UserError: a pattern of ``targets`` fits no layer, or peft is not installed.
        """
        names = sorted(matched(self.targets, adaptable(model), "adaptation.targets"))
        trains = [(weight, weight.requires_grad) for weight in model.parameters()]
        inject(model, names, self.rank, self.alpha, self.dropout)
        for weight, flag in trains:  # peft freezes all of them
            weight.requires_grad_(flag)

    def plain(self, model: Model) -> Mapping[str, Tensor]:
        """Return the weights of an adapted model with the updates merged, under the names of a model without LoRA.

        Args:
            model: the adapted model.
        """
        updates = self.adapter(model).updates
        state = {name: weight for name, weight in model.state_dict().items() if ".lora_" not in name}
        state = {_plain_name(name, updates): weight for name, weight in state.items()}
        with torch.no_grad():
            for layer, update in updates.items():
                state[f"{layer}.weight"] = update.added_to(state[f"{layer}.weight"])
        return state

    def merge(self, model: Model) -> None:
        """Put in the place of each layer with an update a plain one with the sum as its weight.

        Args:
            model: the adapted model.
        """
        for name, update in self.adapter(model).updates.items():
            layer = model.get_submodule(name).get_base_layer()  # type: ignore[operator]
            with torch.no_grad():
                layer.weight.copy_(update.added_to(layer.weight))
            model.set_submodule(name, layer)

    def adapter(self, model: Model) -> Adapter:
        """Return the updates of an adapted model as an adapter, which can be stored and added to the base.

        Args:
            model: the adapted model.
        """
        updates = {
            name: LowRank(layer.lora_A[NAME].weight.detach(), layer.lora_B[NAME].weight.detach(), self.alpha)
            for name, layer in model.named_modules()
            if NAME in getattr(layer, "lora_A", ())
        }
        return Adapter(updates, self.weights)


def adaptable(model: nn.Module) -> list[str]:
    """Return the names of the layers of a model that can get an update of low rank, or another one if they have one."""
    modules = [(name, layer) for name, layer in model.named_modules() if ".lora_" not in name]
    kinds = [name for name, layer in modules if type(layer) in KINDS and getattr(layer, "groups", 1) == 1]
    return [name.removesuffix(BASE.rstrip(".")) for name in kinds]


def inject(model: nn.Module, names: Sequence[str], rank: int, alpha: float, dropout: float = 0.0) -> None:
    """Let peft wrap layers of a model, in place, so that they have an update of low rank; all else is then frozen.

    Args:
        model: the model.
        names: the names of the layers.
        rank, alpha, dropout: see :class:`Lora`.

    Raises:
        UserError: peft is not installed.
    """
    peft = _peft()
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(names))
    peft.inject_adapter_in_model(config, model, NAME)


def _plain_name(name: str, updates: Mapping[str, LowRank]) -> str:
    """Return the name of a weight in a model without LoRA: layers that peft has wrapped have a longer one."""
    layer, _, rest = name.rpartition(BASE)
    return f"{layer}.{rest}" if layer in updates else name


def _peft() -> Any:
    """Return the package peft, whose import takes seconds."""
    try:
        import peft
    except ModuleNotFoundError as error:
        missing = (error.name or "peft").partition(".")[0]
        raise UserError(f"adaptation=lora needs the package {missing}: pip install 'diffsweep[adapt]'") from error
    return peft
