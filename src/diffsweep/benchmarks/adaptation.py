"""The benchmark of adaptation: what a training step of an adapted model costs beside one that trains all weights."""

import copy
import time

import torch
from torch import Tensor, nn

from diffsweep.benchmarks.backbones import memory_of
from diffsweep.benchmarks.base import BYTES, Bench, Results, compare, part, single, synchronize
from diffsweep.callbacks import EMA
from diffsweep.configuration.build import build_data, build_diffusion, device_of
from diffsweep.errors import UserError
from diffsweep.models import DiffusionModel
from diffsweep.progress import tracked


class Loss(nn.Module):
    """The loss of a diffusion model, a scalar, as a module that is called with a training batch."""

    def __init__(self, model: DiffusionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        losses, _, weight = self.model.losses(batch)
        return (weight * losses).mean()


@part
def adaptation(bench: Bench) -> Results:
    """Return the ratios of time and of memory of a training step of an adapted model to one that trains all weights.

    This is the part ``adaptation`` of ``benchmark.py``, with ``adaptation=lora`` or another. Both models have the same
    layers and samples, but the adapted one has the adaptation's layers too and trains fewer weights. A step is the
    loss, its gradients, their clipping, the optimizer's step and the moving average of the weights that train. Memory
    has what the loss needs (see :func:`~diffsweep.benchmarks.backbones.memory_of`), the gradients, the two moments of
    Adam and the moving average.

    Raises:
        UserError: the model is not adapted.
    """
    cfg = bench.cfg
    adapted, data = build_diffusion(cfg), build_data(cfg)
    if adapted.adaptation is None:
        raise UserError(
            "parts=[adaptation] times an adapted model, and adaptation=none is none; use adaptation=lora "
            "adaptation.run=RUN, with the groups of that run"
        )
    full = copy.deepcopy(adapted)
    full.adaptation.merge(full)
    full.requires_grad_(True)
    rows = torch.arange(data.batch_size) % len(data.split("train"))
    batch = {**data.split("train")[rows], "position": torch.arange(data.batch_size)}
    parts = [_Part(Loss(model.to(device_of(cfg)).train()), batch) for model in (adapted, full)]
    for each in parts * 2:
        each.seconds(cfg.train_steps)
    pairs = [
        tuple(each.seconds(cfg.train_steps) for each in parts)
        for _ in tracked(range(cfg.repeats), "adaptation", "repeat")
    ]
    memory = single(parts[0].memory(), parts[1].memory(), BYTES)
    what = f"adaptation={cfg.choices.adaptation}, against one of all weights"
    numbers = " and ".join(f"{sum(weight.numel() for weight in each.weights):,}" for each in parts)
    times = compare([one for one, _ in pairs], [two for _, two in pairs])
    return {f"training step of {what} ({numbers} train)": times, f"memory of a step of {what}": memory}


class _Part:
    """A model in training: its loss on one batch, the weights that train, their optimizer and their average."""

    def __init__(self, loss: Loss, batch: dict[str, Tensor]) -> None:
        self.loss, self.weights = loss, list[Tensor](loss.model.trained_parameters())
        device = loss.model.device
        self.batch = {name: each.to(device) if isinstance(each, Tensor) else each for name, each in batch.items()}
        self.optimizer = loss.model.make_optimizer(self.weights)
        self.average = [weight.detach().clone() for weight in self.weights]

    def seconds(self, steps: int) -> float:
        """Return the seconds of a step, a mean over a number of them."""
        synchronize()
        begin = time.perf_counter()
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.loss(self.batch).backward()
            nn.utils.clip_grad_norm_(self.weights, 1.0)
            self.optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.weights, 1 - EMA().decay)
        synchronize()
        return (time.perf_counter() - begin) / steps

    def memory(self) -> int:
        """Return the bytes that a step takes beside the model's weights: see :func:`adaptation`."""
        self.optimizer.zero_grad()
        own = sum(weight.numel() * weight.element_size() for weight in self.weights)
        on_gpu = self.weights[0].is_cuda  # whose peak has the gradients
        return memory_of(self.loss, self.batch) + (3 if on_gpu else 4) * own  # type: ignore[arg-type]
