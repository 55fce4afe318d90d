"""A training step beside the loop that a paper's script has, and losses beside each other."""

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from diffsweep.benchmarks.base import Bench, Results, compare, part, synchronize
from diffsweep.configuration.build import build, build_data, build_diffusion, device_of
from diffsweep.datasets import ImageData
from diffsweep.diffusion import Hybrid, Noise, Objective, Simple, Stream
from diffsweep.diffusion.process import expand_to
from diffsweep.models import DiffusionModel


class Interleave(Callback):
    """Times blocks of Lightning's steps and, between them, blocks of another loop.

    A block runs from the start of one step to the start of another: it has the data, the hooks and the logging in it.

    Args:
        bare: the other loop over a copy of the model's network: it runs a number of steps.
        steps: of a block.
        bar: advanced by a block each.
    """

    def __init__(self, bare: Callable[[Any], Callable[[int], None]], steps: int, bar: Any) -> None:
        self.make_bare, self.steps, self.bar = bare, steps, bar
        self.ours_seconds: list[float] = []
        self.bare_seconds: list[float] = []
        self._begin: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bare = self.make_bare(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.steps:
            return
        synchronize()
        now = time.perf_counter()
        if self._begin is not None:
            self.ours_seconds.append((now - self._begin) / self.steps)
            begin = time.perf_counter()
            self.bare(self.steps)
            synchronize()
            self.bare_seconds.append((time.perf_counter() - begin) / self.steps)
            self.bar.update()
        self._begin = time.perf_counter()


def bare_loop(model: DiffusionModel, data: ImageData, clip: float | None) -> Callable[[int], None]:
    """The loop that a paper's script has: the same network, batch, loss, clipping and optimizer, and nothing else; on random tensors
    where the model works in latents, and told the same of every batch where the network is told something."""
    network = copy.deepcopy(model.denoiser.backbone)
    optimizer = model.make_optimizer(network.parameters())
    samples = data.split("train")
    x = samples["x"] if model.autoencoder.bounded else torch.randn(len(samples), *model.autoencoder.shape)
    _, cond = model.request(torch.arange(data.batch_size), samples)
    steps = model.denoiser.schedule.num_steps or 1000
    grid = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    alphas, sigmas = (value.float() for value in model.denoiser.schedule(grid))

    def run(count: int) -> None:
        device = next(network.parameters()).device
        for _ in range(count):
            x_0 = x[torch.randint(len(x), (data.batch_size,))].to(device)
            k = torch.randint(steps, (data.batch_size,))
            alpha, sigma = (expand_to(table[k].to(device), x_0) for table in (alphas, sigmas))
            eps = torch.randn_like(x_0)
            output = network(alpha * x_0 + sigma * eps, (1000 * k / steps).to(x_0), cond)
            loss = (output - eps).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()

    return run


@part
def training(bench: Bench) -> Results:
    """Our training loop, with its weight average, counted noise and logging, against the bare loop."""
    cfg = bench.cfg
    model, data = bench.fresh(cfg)
    settings = cfg.copy()
    warm_up = 2
    settings.trainer.max_steps = (cfg.repeats + warm_up) * cfg.train_steps + 1
    settings.trainer.limit_val_batches = 0
    callbacks = [callback for name, callback in build(cfg, "callbacks").items() if name != "progress"]
    with tqdm(total=cfg.repeats + warm_up, desc="training loops", unit="block", dynamic_ncols=True) as bar:
        clip = cfg.trainer.gradient_clip_val
        interleave = Interleave(lambda there: bare_loop(there, data, clip), cfg.train_steps, bar)
        trainer = bench.trainer(settings, [interleave, *callbacks])
        trainer.fit(model, data)
    ratio = compare(interleave.ours_seconds[warm_up:], interleave.bare_seconds[warm_up:])
    return {"training step, against a bare loop": ratio}


@part
def hybrid(bench: Bench) -> Results:
    """A training step with the hybrid loss against one with the simple loss, on the same network with two heads."""
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
    pairs = [
        (step(with_bound), step(simple))
        for _ in tqdm(range(cfg.repeats * cfg.train_steps), desc="hybrid loss", dynamic_ncols=True)
    ]
    ratio = compare([a for a, _ in pairs], [b for _, b in pairs])
    return {"step with the hybrid loss, against the simple loss": ratio}
