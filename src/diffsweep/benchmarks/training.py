"""Benchmarks of training: our loop against a bare PyTorch loop, and the hybrid against the simple loss."""

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler

from diffsweep.benchmarks.base import Bench, Results, compare, part, synchronize
from diffsweep.configuration.build import build, build_data, build_diffusion, device_of
from diffsweep.datasets import ImageData
from diffsweep.diffusion import Hybrid, Noise, Objective, Simple, Stream
from diffsweep.diffusion.process import expand_to
from diffsweep.models import DiffusionModel
from diffsweep.precision import precision_of
from diffsweep.progress import ProgressMeter, tracked

Loop = Callable[[int], None]  # runs a given number of training steps


class Interleave(Callback):
    """A callback of Lightning that times blocks of its training steps and, in turn with them, blocks of other loops.

    A block of Lightning's runs from the start of one step to the start of another, so it includes loading of data,
    hooks and logging.

    Args:
        others: a function that is called with the model when training starts, and returns the other loops by name.
        steps: the number of steps of a block.
        bar: a progress bar, whose ``update()`` is called after each round of blocks.

    Attributes:
        ours: the seconds of a step of Lightning's loop, one number for each round.
        seconds: those of the other loops, by name.
    """

    def __init__(self, others: Callable[[Any], Mapping[str, Loop]], steps: int, bar: Any) -> None:
        self.make_others, self.steps, self.bar = others, steps, bar
        self.ours: list[float] = []
        self.seconds: dict[str, list[float]] = {}
        self._begin: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.others = self.make_others(pl_module)
        self.seconds = {name: [] for name in self.others}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.steps:
            return
        synchronize()
        now = time.perf_counter()
        if self._begin is not None:
            self.ours.append((now - self._begin) / self.steps)
            for name, loop in self.others.items():
                begin = time.perf_counter()
                loop(self.steps)
                synchronize()
                self.seconds[name].append((time.perf_counter() - begin) / self.steps)
            self.bar.update()
        self._begin = time.perf_counter()


def bare_loop(model: DiffusionModel, data: ImageData, clip: float | None, precision: str = "32-true") -> Loop:
    """Return a bare PyTorch training loop, as in a script for a paper: a function that runs a given number of steps.

    The loop trains a copy of the model's network with the mean square loss of eps (L_simple), the model's optimizer,
    the batch size of the data and clipping of gradients, and does nothing else. If the model diffuses in latents, the
    loop takes random tensors of their shape for data; if the network takes a condition, all batches have the same.

    Args:
        model: the model whose training is compared with the loop.
        data: the training data.
        clip: the norm that gradients are clipped to; None or 0 for no clipping.
        precision: of Lightning: with ``bf16-mixed`` or ``16-mixed`` the network runs under autocast in 16 bits. With
            ``bf16-true`` and the like the model's weights have this type already, and the loop's data get it.
    """
    network = copy.deepcopy(model.denoiser.backbone)
    mixed = precision_of(precision)
    half = mixed.computed is torch.float16
    scaler = torch.amp.GradScaler(model.device.type, enabled=half)  # type: ignore[attr-defined]
    optimizer = model.make_optimizer(network.parameters())
    samples = data.split("train")
    x = samples["x"] if model.autoencoder.bounded else torch.randn(len(samples), *model.autoencoder.shape)
    _, cond = model.request(torch.arange(data.batch_size), samples)
    steps = model.denoiser.schedule.num_steps or 1000
    grid = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    alphas, sigmas = (value.float() for value in model.denoiser.schedule(grid))

    def run(count: int) -> None:
        weight = next(network.parameters())
        device = weight.device
        for _ in range(count):
            x_0 = x[torch.randint(len(x), (data.batch_size,))].to(weight)
            k = torch.randint(steps, (data.batch_size,))
            alpha, sigma = (expand_to(table[k].to(x_0), x_0) for table in (alphas, sigmas))
            eps = torch.randn_like(x_0)
            with mixed.autocast(device):
                output = network(alpha * x_0 + sigma * eps, (1000 * k / steps).to(x_0), cond)
                loss = (output - eps).square().mean()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            if clip:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
            scaler.step(optimizer)
            scaler.update()

    return run


@part
def training(bench: Bench) -> Results:
    """Return, by a label, the ratio of the time of a step of diffsweep's training loop to that of a bare PyTorch loop.

    This is the part ``training`` of ``benchmark.py``. Both loops train the same network in blocks of steps, in turn;
    the first two blocks are left out. diffsweep's loop, of Lightning, also averages weights, draws noise by the
    position of each sample, and logs.
    """
    clip, precision = bench.cfg.trainer.gradient_clip_val, bench.cfg.trainer.precision
    return beside(bench, lambda model, data: {"a bare loop": bare_loop(model, data, clip, precision)})


def fit_timed(
    bench: Bench, parts: tuple[DiffusionModel, ImageData], steps: int, timer: Callback, profiler: Profiler | None = None
) -> None:
    """Train a model as a run does, with its callbacks and loggers, but without validation and progress.

    Args:
        bench: what the part of the benchmark was given.
        parts: the model and its data.
        steps: the number of steps; the start of one more ends the last one.
        timer: a callback that measures the time, called before those of the run.
        profiler: what Lightning reports the beginnings and ends of its actions to; None for nothing.
    """
    settings = bench.cfg.copy()
    settings.trainer.max_steps, settings.trainer.limit_val_batches = steps + 1, 0
    callbacks = [callback for name, callback in build(bench.cfg, "callbacks").items() if name != "progress"]
    trainer = bench.trainer(settings, [timer, *callbacks])
    if profiler is not None:
        trainer.profiler = profiler  # type: ignore[attr-defined]
    trainer.fit(*parts)


def beside(bench: Bench, others: Callable[[DiffusionModel, ImageData], Mapping[str, Loop]]) -> Results:
    """Return, by label, the ratio of the time of a step of diffsweep's training loop to that of a step of other loops.

    All loops run in blocks of ``train_steps`` steps, in turn; the first two rounds are left out.

    Args:
        bench: what the part of the benchmark was given.
        others: a function of the model, on its device, and its data that returns the other loops by name.
    """
    cfg = bench.cfg
    model, data = bench.fresh(cfg)
    warm_up = 2
    with ProgressMeter("training loops", cfg.repeats + warm_up, "round") as progress:
        interleave = Interleave(lambda module: others(module, data), cfg.train_steps, progress)
        fit_timed(bench, (model, data), (cfg.repeats + warm_up) * cfg.train_steps, interleave)
    return {
        f"training step, against {name}": compare(interleave.ours[warm_up:], seconds[warm_up:])
        for name, seconds in interleave.seconds.items()
    }


@part
def hybrid(bench: Bench) -> Results:
    """Return, by a label, the ratio of the time of a training step with the hybrid loss to one with the simple loss.

    This is the part ``hybrid`` of ``benchmark.py``. The hybrid loss adds the variational bound to the simple loss. Both
    train the same network, which has an output for the variance too.
    """
    cfg = bench.cfg
    settings = cfg.copy()
    settings.prediction.variance = "learned_range"
    model, data = build_diffusion(settings), build_data(cfg)
    model.to(device_of(cfg))
    optimizer = model.make_optimizer(model.denoiser.parameters())
    samples = data.split("train")["x"]
    rows = torch.arange(data.batch_size) % len(samples)
    noise, x_0 = Noise(0, rows.to(model.device)), samples[rows].to(model.device)
    t, eps = model.denoiser.schedule.time_at(noise.uniform(stream=Stream.TIME)), noise.like(x_0, Stream.EPS)
    with_bound, simple = Hybrid(levels=model.autoencoder.levels), Simple()

    def step(objective: Objective) -> float:
        synchronize()
        begin = time.perf_counter()
        optimizer.zero_grad()
        objective(model.denoiser, x_0, None, t, eps).mean().backward()
        optimizer.step()
        synchronize()
        return time.perf_counter() - begin

    for objective in (with_bound, simple) * 3:
        step(objective)
    pairs = [(step(with_bound), step(simple)) for _ in tracked(range(cfg.repeats * cfg.train_steps), "hybrid loss")]
    ratio = compare([a for a, _ in pairs], [b for _, b in pairs])
    return {"step with the hybrid loss, against the simple loss": ratio}
