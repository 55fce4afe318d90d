"""Random modules and inputs in float64."""

import torch


def drawn(module):
    """Return the module in float64 with every parameter drawn from a normal distribution."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.double()


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)
