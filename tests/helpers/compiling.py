"""Small networks for tests of compilation, and what they compute."""

import torch

from diffsweep.backbones import DiT, UNet, UViT

PARTS = {"channels": 8, "num_heads": 2}


def randomised(network):
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1) if not parameter.any() else None
    return network


NETWORKS = {
    "unet": lambda: UNet(1, 1, 8, channels=8, channel_mult=[1, 2], num_res_blocks=1, attention_factors=[2]),
    "dit": lambda: DiT(1, 1, 8, depth=2, **PARTS),
    "checkpointing": lambda: DiT(1, 1, 8, depth=2, checkpointing=True, **PARTS),
    "uvit": lambda: UViT(1, 1, 8, depth=5, **PARTS),
}
INPUTS = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 700.0])


def gradients(network):
    network.zero_grad()
    output = network(*INPUTS)
    output.square().sum().backward()
    return output.detach(), [parameter.grad.clone() for parameter in network.parameters()]
