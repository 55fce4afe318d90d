"""A benchmark of ways of computing a network: compiled, in bfloat16, and with the channels of maps last in memory."""

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import nn

from diffsweep.backbones import Execution
from diffsweep.backbones.execution import Regions
from diffsweep.benchmarks.base import Bench, Results, compare, part, synchronize
from diffsweep.configuration.build import build_data, build_diffusion, device_of
from diffsweep.progress import tracked


@part
def execution(bench: Bench) -> Results:
    """Return the ratios of the time of a training step of a network to that of the same network as it is.

    This is the part ``execution`` of ``benchmark.py``. The network is that of the configuration, with its optimizer. It
    is compiled as the group ``execution`` describes, or as a whole with ``execution=eager``; computed under autocast in
    bfloat16; and, if it has convolutions of maps, computed with their channels last in memory. All steps start from
    copies of one network, and are taken in turn; the compilation is not counted.
    """
    cfg = bench.cfg
    model, device = build_diffusion(cfg), device_of(cfg)
    regions: Regions = "network" if cfg.execution.compile == "none" else cfg.execution.compile
    shape = (cfg.dataset.batch_size, *model.autoencoder.shape)
    x, c_noise = torch.randn(shape, device=device), torch.linspace(0, 999, shape[0], device=device)
    _, cond = model.to(device).request(torch.arange(shape[0]), build_data(cfg).split("val"))

    def step_of(network: nn.Module, mixed: bool = False) -> Callable[[], float]:
        optimizer = model.make_optimizer(list(network.parameters()))

        def step() -> float:
            synchronize()
            begin = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16) if mixed else nullcontext():
                output = network(x, c_noise, cond)
            optimizer.zero_grad()
            output.float().square().mean().backward()
            optimizer.step()
            synchronize()
            return time.perf_counter() - begin

        return step

    def copied() -> nn.Module:
        return copy.deepcopy(model.denoiser.backbone).train()

    plain, compiled = step_of(copied()), copied()
    Execution(regions, cfg.execution.backend)([compiled])
    others = {f"compiled ({regions}), against eager": step_of(compiled)}
    others["in bfloat16, against float32"] = step_of(copied(), mixed=True)
    if any(isinstance(module, nn.Conv2d) for module in compiled.modules()):
        last = copied().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        others["with channels last, against first"] = step_of(last)
    results = {}
    for name, step in others.items():
        for _ in range(2):  # the first one compiles
            step()
            plain()
        pairs = [(step(), plain()) for _ in tracked(range(cfg.repeats * cfg.train_steps), name)]
        results[f"step of {cfg.choices.backbone} {name}"] = compare([a for a, _ in pairs], [b for _, b in pairs])
    return results
