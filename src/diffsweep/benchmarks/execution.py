"""A benchmark of ways of computing a network: compiled, in bfloat16, and with the channels of maps last in memory."""

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from diffsweep.backbones import Execution
from diffsweep.backbones.execution import Regions
from diffsweep.benchmarks.base import Bench, Results, compare, part, synchronize
from diffsweep.configuration.build import build_data, build_diffusion, device_of
from diffsweep.precision import precision_of
from diffsweep.progress import tracked


@part
def execution(bench: Bench) -> Results:
    """Return the ratios of the time of a training step of a network to that of the same network as it is.

    This is the part ``execution`` of ``benchmark.py``. The network is that of the configuration, with its optimizer, in
    the precision of ``trainer``. It is compiled as the group ``execution`` describes, or as a whole with
    ``execution=eager``; and, if it has convolutions of maps, computed with their channels last in memory. A step under
    autocast in bfloat16 is compared with one in float32. On a GPU calls for ``sample_batch`` samples are compiled and
    recorded too, and compared with those of the network as it is. All steps start from copies of one network, and are
    taken in turn; the compilation is not counted.
    """
    cfg, name = bench.cfg, bench.cfg.choices.backbone
    model, device = build_diffusion(cfg), device_of(cfg)
    regions: Regions = "network" if cfg.execution.compile == "none" else cfg.execution.compile
    samples = build_data(cfg).split("val")
    dtype = precision_of(cfg.trainer.precision).computed
    model.to(device)

    def inputs(count: int) -> tuple[Any, ...]:
        x = torch.randn((count, *model.autoencoder.shape), device=device)
        return x, torch.linspace(0, 999, count, device=device), model.request(torch.arange(count), samples)[1]

    batch, drawn = inputs(cfg.dataset.batch_size), inputs(cfg.sample_batch)

    def timed(run: Callable[[], None]) -> Callable[[], float]:
        def seconds() -> float:
            synchronize()
            begin = time.perf_counter()
            run()
            synchronize()
            return time.perf_counter() - begin

        return seconds

    def step_of(network: nn.Module, dtype: torch.dtype | None = dtype) -> Callable[[], float]:
        optimizer = model.make_optimizer(list(network.parameters()))

        def step() -> None:
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                output = network(*batch)
            optimizer.zero_grad()
            output.float().square().mean().backward()
            optimizer.step()

        return timed(step)

    def call_of(network: nn.Module) -> Callable[[], float]:
        @torch.no_grad()
        def call() -> None:
            network.eval()(*drawn)

        return timed(call)

    def copied(**settings: Any) -> nn.Module:
        network = copy.deepcopy(model.denoiser.backbone).train()
        if settings:
            Execution(backend=cfg.execution.backend, **settings)([network])
        return network

    full, plain = step_of(copied(), None), step_of(copied())
    others = {
        f"step of {name} compiled ({regions}), against eager": (step_of(copied(compile=regions)), plain),
        f"step of {name} in bfloat16, against float32": (step_of(copied(), torch.bfloat16), full),
    }
    if any(isinstance(module, nn.Conv2d) for module in model.denoiser.backbone.modules()):
        last = copied().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        others[f"step of {name} with channels last, against first"] = step_of(last), plain
    if device.type == "cuda":
        recorded = copied(compile="network", cuda_graphs=True)
        label = f"call of {name} for {cfg.sample_batch} samples as a CUDA graph, against eager"
        others[label] = call_of(recorded), call_of(copied())
    results = {}
    for label, (step, against) in others.items():
        for _ in range(3):  # the first one compiles, the second one records
            step()
            against()
        pairs = [(step(), against()) for _ in tracked(range(cfg.repeats * cfg.train_steps), label)]
        results[label] = compare([a for a, _ in pairs], [b for _, b in pairs])
    return results
