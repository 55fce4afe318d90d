"""The benchmark of distillation: what a student's training step costs beside a plain one of the same network."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from diffsweep.benchmarks.base import Bench, Results, compare, part, synchronize
from diffsweep.configuration.build import build_data, build_diffusion, device_of
from diffsweep.diffusion import Simple, Stream
from diffsweep.errors import UserError
from diffsweep.models.distilled import Student
from diffsweep.progress import tracked


@part
def distillation(bench: Bench) -> Results:
    """Return the ratio of the time of a student's training step to that of a plain step of the same network.

    This is the part ``distillation`` of ``benchmark.py``, with ``model=progressive_distillation`` or another student.
    The student's step includes the calls of its teacher, which have no gradients; the plain step is that of the simple
    loss. Both take the same samples and update the same weights.

    Raises:
        UserError: the model is no student.
    """
    cfg = bench.cfg
    model, data = build_diffusion(cfg), build_data(cfg)
    if not isinstance(model, Student):
        raise UserError(
            f"parts=[distillation] times a student, and model={cfg.choices.model} is none; use "
            "model=progressive_distillation, or another that learns from a teacher"
        )
    model.to(device_of(cfg)).train()
    model.setup("fit")
    optimizer = model.make_optimizer(model.trained_parameters())
    rows = torch.arange(data.batch_size) % len(data.split("train"))
    batch = {**data.split("train")[rows], "position": torch.arange(data.batch_size)}
    batch = {name: value.to(model.device) for name, value in batch.items() if isinstance(value, Tensor)}
    x_0, noise = model.autoencoder.of(batch), model.batch_noise(batch["position"])
    cond, eps, simple = model.condition(batch, noise), noise.like(x_0, Stream.EPS), Simple()
    t = model.denoiser.schedule.time_at(noise.uniform(stream=Stream.TIME))

    def student() -> Tensor:
        losses, _, weight = model.losses(batch)
        return (weight * losses).mean()

    def plain() -> Tensor:
        return simple(model.denoiser, x_0, cond, t, eps).mean()

    def seconds(loss: Callable[[], Tensor]) -> float:
        synchronize()
        begin = time.perf_counter()
        for _ in range(cfg.train_steps):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        synchronize()
        return (time.perf_counter() - begin) / cfg.train_steps

    seconds(student), seconds(plain)
    pairs = [(seconds(student), seconds(plain)) for _ in tracked(range(cfg.repeats), "distillation", "repeat")]
    name = f"training step of {cfg.choices.model}, against a plain one"
    return {name: compare([ours for ours, _ in pairs], [bare for _, bare in pairs])}
