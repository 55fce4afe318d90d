"""Modules and inputs in float64, at random."""

import torch


def drawn(module):
    """The module in float64 with every parameter at random."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.double()


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)
