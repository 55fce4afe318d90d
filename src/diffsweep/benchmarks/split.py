"""Where the time of a training step goes, and how much of the device's arithmetic it uses."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from diffsweep.benchmarks.base import FLOPS, SECONDS, Bench, Results, part, single, synchronize
from diffsweep.benchmarks.training import fit_timed
from diffsweep.callbacks.profilers import PhaseTimes
from diffsweep.configuration.build import device_of
from diffsweep.phases import IN_A_STEP, REST, profiled
from diffsweep.precision import precision_of

SIZE, SMALL = 8192, 1024  # sides of the matrices whose product gives the peak, on a GPU and on a CPU
WARM_UP = 10  # training steps that are not measured
TIMES = 10  # how often they are multiplied


class _Step(Callback):
    """A callback that measures the time of the steps after the first ones, and that of their parts by a profiler."""

    def __init__(self, warm_up: int, profiler: PhaseTimes | None = None) -> None:
        self.warm_up, self.profiler = warm_up, profiler
        self.begin = self.end = 0.0
        self.seconds: dict[str, float] = {}  # of the parts, up to ``end``

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        synchronize()
        self.end = time.perf_counter()
        if batch_idx == self.warm_up:
            self.begin = self.end
        if self.profiler is not None:
            if batch_idx == self.warm_up:
                self.profiler.seconds.clear()
            self.seconds = dict(self.profiler.seconds)


@part
def split(bench: Bench) -> Results:
    """Return, by label, the share of each phase of a training step, such as data, network, backward.

    This is the part ``split`` of ``benchmark.py``. ``ours`` are the seconds of the part in a step, ``bare`` those of
    the whole step, and the shares add up to 1. On a GPU the parts wait for each other, so that a step is slower here.
    """
    cfg = bench.cfg
    steps, profiler = cfg.repeats * cfg.train_steps, PhaseTimes(Path(), 0)
    clock = _Step(WARM_UP, profiler)
    with profiled(profiler.profile):
        fit_timed(bench, bench.fresh(cfg), WARM_UP + steps, clock, profiler)
    seconds = (clock.end - clock.begin) / steps
    inside = {name: spent / steps for name in IN_A_STEP if (spent := clock.seconds.get(name))}
    inside[REST] = seconds - sum(inside.values())
    return {f"{name}, of a training step": single(spent, seconds, SECONDS) for name, spent in inside.items()}


@part
def utilisation(bench: Bench) -> Results:
    """Return the floating-point operations of training a second, as a share of the device's peak.

    This is the part ``utilisation`` of ``benchmark.py``. The operations are those of the network alone, three times
    those of its forward pass, by torch's counter with attention as plain products; the peak is what the product of two
    large matrices in the same precision reaches on the device (model FLOP utilisation, arXiv:2204.02311). On a CPU,
    whose convolutions have kernels of their own, the share can be above 1.
    """
    cfg = bench.cfg
    steps, clock = cfg.repeats * cfg.train_steps, _Step(WARM_UP)
    fit_timed(bench, bench.fresh(cfg), WARM_UP + steps, clock)
    seconds = (clock.end - clock.begin) / steps
    operations = 3 * 2e9 * bench.cost(cfg).gmac  # of training on one image: forward, and twice as many backward
    batch = cfg.dataset.batch_size * cfg.trainer.accumulate_grad_batches
    achieved, peak = operations * batch / seconds, peak_of(device_of(cfg), cfg.trainer.precision)
    name = f"{cfg.choices.backbone}, {operations / 1e9:.3g} GFLOP an image, {batch / seconds:.4g} images/s"
    return {f"FLOP utilisation of training ({name})": single(achieved, peak, FLOPS)}


def peak_of(device: torch.device, precision: str) -> float:
    """Return the floating-point operations a second of the product of two large square matrices on a device.

    Args:
        device: where it is measured.
        precision: of Lightning: with ``bf16-mixed`` or ``16-mixed`` the matrices have 16 bits, else 32.
    """
    dtype = precision_of(precision).computed or torch.float32
    size = SIZE if device.type == "cuda" else SMALL
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(5):
        synchronize()
        begin = time.perf_counter()
        for _ in range(TIMES):
            a @ b
        synchronize()
        times.append((time.perf_counter() - begin) / TIMES)
    return 2 * size**3 / min(times[1:])
