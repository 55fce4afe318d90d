"""Several optimizers that Lightning drives as one, for models whose parts learn with different settings in one pass."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch
from torch.optim import Optimizer


class CombinedOptimizer(Optimizer):
    """An optimizer made of several, whose parameters differ and which all step together.

    Lightning drives it as one optimizer, so automatic optimisation with its accumulation, clipping and gradient scaler,
    learning-rate schedules, and checkpoints work with all of them. Its parameter groups are those of the given
    optimizers, in order, and its state is the union of theirs. The given optimizers hold the same groups and state, not
    copies, and :meth:`step` calls the step of each. Parameters without a gradient stay as they are. The gradient scaler
    unscales gradients before the step, so gradients of fused optimizers can be clipped too.

    Lightning's manual optimisation would need no such class, but it counts the steps of every optimizer, and noise,
    learning rates, logging and checkpoints all follow the count of steps.

    Args:
        optimizers: optimizers that have no parameter in common. All that they remember must be in their ``state`` and
            ``param_groups``, as it is in those of torch.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self.optimizers = tuple(optimizers)
        for optimizer in optimizers:
            self.state.update(optimizer.state)
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for optimizer in self.optimizers:
            own = list(islice(groups, len(optimizer.param_groups)))
            optimizer.__setstate__({"state": self.state, "param_groups": own})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()  # loading a state makes new dictionaries

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if hasattr(self, "optimizers"):
            raise NotImplementedError(
                "a parameter group belongs to one of the optimizers: add it to that one, before they are combined"
            )
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss


def parameters_by_optimizer(optimizer: Optimizer) -> list[list[torch.nn.Parameter]]:
    """Return the parameters that an optimizer changes, as a list for each of the optimizers that it is made of.

    It is one list but for a :class:`CombinedOptimizer`. No module is searched for them, which takes as long as a small
    layer in each training step.
    """
    parts = getattr(optimizer, "optimizers", (optimizer,))
    return [[weight for group in part.param_groups for weight in group["params"]] for part in parts]
