"""Random modules and inputs in float64."""

import torch


def drawn(module):
    """Return the module in float64 with every parameter drawn from a normal distribution."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.double()


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def redrawn(module, std):
    """Return the module with every parameter drawn from a normal distribution, norms' weights around 1."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=std)
    for norm in module.modules():
        if isinstance(norm, torch.nn.GroupNorm):
            norm.weight.data += 1
    return module
