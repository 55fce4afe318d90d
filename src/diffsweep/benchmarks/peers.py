"""Pairs of our backbones and diffusers' networks of the same architecture, and the times of their training steps."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffsweep.backbones import DiT, UNet
from diffsweep.diffusion import Condition
from diffsweep.interchange.formats import package
from diffsweep.progress import tracked

Call = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
TIME, CLASSES = 500.0, 10


class Pair(NamedTuple):
    """A backbone of diffsweep and a network of diffusers of the same architecture, to be timed against each other.

    Attributes:
        name: the name of the architecture, for labels.
        ours: the backbone of diffsweep.
        theirs: the network of diffusers.
        call: a function ``call(theirs, x, c_noise, classes)`` that calls the network of diffusers and returns its
            output, (B, out_channels, H, W).
        shape: the shape of x without the batch, (C, H, W).
        out_channels: the number of channels of the output.
    """

    name: str
    ours: nn.Module
    theirs: Any
    call: Call
    shape: tuple[int, int, int]
    out_channels: int


def pairs() -> list[Pair]:
    """Return the pairs to compare: a small U-Net without attention, one with attention, and a DiT.

    Raises:
        UserError: diffusers is not installed.
    """
    package("diffusers", user="parts=[backbones]")
    from diffusers import DiTTransformer2DModel, UNet2DModel

    def unet(name: str, size: int, channels: int, attends: bool, blocks: int) -> Pair:
        down, up = ("AttnDownBlock2D", "AttnUpBlock2D") if attends else ("DownBlock2D", "UpBlock2D")
        settings: dict[str, Any] = {"num_res_blocks": blocks, "attention_resolutions": [], "norm_groups": 8}
        ours = UNet(
            3, 3, size, channels=channels, **settings, attention_factors=[2] if attends else [], head_channels=8
        )
        theirs = UNet2DModel(
            size, 3, 3, down_block_types=("DownBlock2D", down), up_block_types=(up, "UpBlock2D"),
            block_out_channels=(channels, 2 * channels), layers_per_block=blocks, norm_num_groups=8,
            attention_head_dim=8, add_attention=attends,
        )  # fmt: skip
        return Pair(name, ours, theirs, lambda net, x, t, y: net(x, t).sample, (3, size, size), 3)

    dit = DiT(4, 8, 16, patch_size=2, channels=192, depth=6, num_heads=6, num_classes=CLASSES)
    theirs = DiTTransformer2DModel(6, 32, 4, 8, 6, sample_size=16, patch_size=2, num_embeds_ada_norm=CLASSES)
    return [
        unet("U-Net", 8, 32, attends=False, blocks=1),
        unet("U-Net with attention", 16, 32, attends=True, blocks=2),
        Pair("DiT", dit, theirs, lambda net, x, t, y: net(x, t.long(), y).sample, (4, 16, 16), 8),
    ]


def step_times(pair: Pair, batch: int, repeats: int, device: torch.device) -> tuple[list[float], list[float]]:
    """Return the seconds of training steps of both networks of a pair, taken in turn: ours, and diffusers'.

    A step is a forward and a backward pass with a mean square loss and a step of AdamW. Three steps of each come first,
    to warm up.

    Args:
        pair: the two networks, which are moved to the device and trained.
        batch: the number of samples of a step.
        repeats: the number of timed steps of each, which is the length of both lists.
        device: where the steps run.
    """
    x = torch.randn(batch, *pair.shape, device=device)
    target = torch.randn(batch, pair.out_channels, *pair.shape[1:], device=device)
    c_noise = torch.full((batch,), TIME, device=device)
    classes = torch.arange(batch, device=device) % CLASSES
    cond = Condition(vector=classes)
    runs: list[tuple[nn.Module, Callable[[nn.Module], Tensor]]] = [
        (pair.ours.to(device), lambda net: net(x, c_noise, cond)),
        (pair.theirs.to(device), lambda net: pair.call(net, x, c_noise, classes)),
    ]
    optimizers = [torch.optim.AdamW(net.parameters(), fused=True) for net, _ in runs]
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in tracked(range(repeats + 3), pair.name, "repeat"):
        for (net, call), optimizer, seconds in zip(runs, optimizers, times, strict=True):
            if device.type == "cuda":
                torch.cuda.synchronize()
            begin = time.perf_counter()
            optimizer.zero_grad()
            (call(net) - target).square().mean().backward()
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repeat >= 3:
                seconds.append(time.perf_counter() - begin)
    return times


def parameters(network: nn.Module) -> int:
    """Return the number of parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())
