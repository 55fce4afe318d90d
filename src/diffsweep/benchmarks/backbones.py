"""Benchmarks of networks: our backbones against those of diffusers, and factorised against full attention."""

import time

import torch
from torch import Tensor, nn

from diffsweep.benchmarks import peers
from diffsweep.benchmarks.base import BYTES, Bench, Results, compare, part, single, synchronize
from diffsweep.configuration.build import build, device_of
from diffsweep.configuration.compose import compose
from diffsweep.progress import tracked


@part
def backbones(bench: Bench) -> Results:
    """Return the ratios of the time of a training step of our backbones to that of diffusers' same architectures.

    This is the part ``backbones`` of ``benchmark.py``. Each of the pairs of :func:`diffsweep.benchmarks.peers.pairs`
    has a result, as :func:`~diffsweep.benchmarks.base.compare` returns it, by a label with both numbers of parameters.

    Raises:
        UserError: diffusers is not installed.
    """
    cfg = bench.cfg
    results = {}
    for pair in peers.pairs():
        sizes = f"{peers.parameters(pair.ours):,} against {peers.parameters(pair.theirs):,} parameters"
        times = peers.step_times(pair, cfg.dataset.batch_size, cfg.repeats * cfg.train_steps, device_of(cfg))
        results[f"{pair.name} step, against diffusers' ({sizes})"] = compare(*times)
    return results


@part
def video(bench: Bench) -> Results:
    """Return the ratios of time and of memory of a training step with factorised attention to one with full attention.

    This is the part ``video`` of ``benchmark.py``, with two results by label: the ratio of times beside the seconds of
    each, and the ratio of memory beside the bytes of each. Both networks are DiT3D with the same weights, on clips of
    the size that the configuration gives (of 16 frames if its data are images). Factorised attention alternates between
    space and time; full attention is over both at once. Memory is the peak in a step beyond what is allocated before,
    on a GPU; on a CPU, whose allocator keeps no count, what a forward pass keeps for the backward pass, which is most
    of that peak.
    """
    cfg = bench.cfg
    frames = cfg.space.num_frames or 16
    sizes = [
        f"space.channels={cfg.space.channels}",
        f"space.image_size={cfg.space.image_size}",
        f"space.num_frames={frames}",
    ]
    networks = []
    for kind in ("factorised", "full"):
        node = compose("benchmark", ["backbone=dit3d", f"backbone.attention={kind}", *sizes])
        networks.append(build(node, "backbone").to(device_of(cfg)))
    networks[1].load_state_dict(networks[0].state_dict())
    shape = (cfg.dataset.batch_size, cfg.space.channels, frames, cfg.space.image_size, cfg.space.image_size)
    x, c_noise = torch.randn(shape, device=device_of(cfg)), torch.full(shape[:1], 500.0, device=device_of(cfg))

    def step(network: nn.Module) -> float:
        synchronize()
        begin = time.perf_counter()
        network(x, c_noise).square().mean().backward()
        network.zero_grad()
        synchronize()
        return time.perf_counter() - begin

    for network in networks * 2:
        step(network)
    pairs = [(step(networks[0]), step(networks[1])) for _ in tracked(range(cfg.repeats), "video", "repeat")]
    least, most = (memory_of(network, x, c_noise) for network in networks)
    memory = single(least, most, BYTES)
    what = f"factorised attention, against full ({' x '.join(str(size) for size in shape)})"
    return {f"step with {what}": compare([a for a, _ in pairs], [b for _, b in pairs]), f"memory of {what}": memory}


def memory_of(network: nn.Module, *inputs: Tensor) -> int:
    """Return the bytes that a training step of a network takes, besides its weights and what is allocated before.

    On a GPU it is the peak during the step; on a CPU the size of the tensors that are kept for the backward pass.

    Args:
        network: the network; the loss of the step is the mean square of its output.
        inputs: the arguments of its call.
    """
    if next(network.parameters()).is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        network(*inputs).square().mean().backward()
        network.zero_grad()
        return torch.cuda.max_memory_allocated() - before
    own, kept = {weight.untyped_storage().data_ptr() for weight in network.parameters()}, {}

    def keep(part: Tensor) -> Tensor:
        storage = part.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return part

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda part: part):
        output = network(*inputs)  # keeps the tensors alive, so that no address is counted twice
    del output
    return sum(kept.values())
