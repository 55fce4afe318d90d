"""Replay a training batch whose loss or gradient was NaN or infinite: ``train.py debug=replay run=DIR``.

The batch, its noise and its times are functions of the seed and of the positions of its samples, so the weights before
the step and these positions are all that is kept of it.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from diffsweep import shell
from diffsweep.callbacks.checkpoints import read_checkpoint
from diffsweep.callbacks.finite import FAILED
from diffsweep.configuration.build import build_data, build_model, device_of
from diffsweep.errors import UserError
from diffsweep.models import Model
from diffsweep.models.timed import TimedModel
from diffsweep.precision import precision_of
from diffsweep.runs.training_samples import keep_samples

MOST = 8  # samples and weights that are printed


def replay(cfg: DictConfig) -> float:
    """Compute the batch that failed in a run again, print where it is not finite, and return its loss.

    Printed are the samples with a loss that is not finite (position in the training stream, time t, loss), the first
    layer whose output is not, and the weights whose gradients are not.

    Args:
        cfg: the configuration of the run, with ``replay=true``.

    Raises:
        UserError: no step of the run has failed, or no run is given.
    """
    path = Path(cfg.paths.run_dir) / FAILED
    if not path.is_file():
        raise UserError(
            f"{shell.shown(path)} does not exist: give a run that a NaN or infinite loss has stopped, as in "
            "debug=replay run=DIR"
        )
    content = read_checkpoint(path)
    data, model = build_data(cfg), build_model(cfg)
    keep_samples(cfg, model, data)
    model.load_state_dict(model.with_given(content["state_dict"]))
    model.to(device_of(cfg)).train()
    stream = data.training_stream()
    total = 0.0
    print(f"step {content['step']} of {shell.shown(path.parent)}, from the weights before it")
    for number, positions in enumerate(content["positions"]):
        batch = stream[range(int(positions[0]), int(positions[-1]) + 1)]
        moved = {key: value.to(model.device) if isinstance(value, Tensor) else value for key, value in batch.items()}
        model.seed_dropout(content["step"] - 1, number)
        total += _explained(model, moved, precision_of(cfg.trainer.precision).autocast(model.device))
    return total


def _explained(model: Model, batch: dict[str, Any], precision: AbstractContextManager[Any]) -> float:
    """Compute the loss and the gradients of a batch, print where they are not finite, and return the loss."""
    bad: list[str] = []
    loss: Tensor
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: _note(bad, name, output))
        for name, module in model.named_modules()
        if name and not list(module.children())
    ]
    try:
        with precision:
            if isinstance(model, TimedModel):
                losses, t, weight = model.losses(batch)
                loss = (weight * losses).mean()
                _print_samples(batch["position"], t, losses)
            else:
                step: Any = model.training_step
                loss = step(batch, 0)
    finally:
        for hook in hooks:
            hook.remove()
    model.zero_grad(set_to_none=True)
    loss.backward()
    print(f"  loss {float(loss):g}")
    print(f"  first layer whose output is not finite: {bad[0] if bad else 'none'}")
    weights = [
        name
        for name, weight in model.named_parameters()
        if weight.grad is not None and not torch.isfinite(weight.grad).all()
    ]
    more = f" and {len(weights) - MOST} more" if len(weights) > MOST else ""
    print(f"  weights whose gradients are not finite: {', '.join(weights[:MOST]) or 'none'}{more}")
    stored = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if stored:
        print(f"  weights that were not finite before the step: {', '.join(stored[:MOST])}")
    return float(loss)


def _print_samples(positions: Tensor, t: Tensor, losses: Tensor) -> None:
    rows = torch.nonzero(~torch.isfinite(losses)).flatten().tolist()
    times = t if t.ndim == 1 else t.flatten(1).mean(1)
    print(f"  positions {int(positions.min())} to {int(positions.max())}: {len(rows)} of {len(losses)} losses are bad")
    for row in rows[:MOST]:
        print(f"    position {int(positions[row])}, t = {float(times[row]):.4g}: loss {float(losses[row]):g}")


def _note(bad: list[str], name: str, output: Any) -> None:
    if isinstance(output, Tensor) and not torch.isfinite(output).all():
        bad.append(name)
