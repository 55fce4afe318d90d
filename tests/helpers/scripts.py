"""Small torchscript networks with the interfaces of public ones, which stand in for their files."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional


class SmallInception(nn.Module):
    """A network of random weights that is called as the public Inception of 2015, and has its parts by the same names.

    It resizes images itself, as TensorFlow 1 does: pixel j of 299 has the value at the place j n / 299.
    """

    def __init__(self, classes: int = 1008, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        layers = [
            ("conv", nn.Conv2d(3, 8, 3, stride=2)),
            ("pool0", nn.AvgPool2d(4, stride=4)),
            ("mixed_5", nn.Conv2d(8, 8, 3, padding=1)),
            ("mixed_6", nn.Conv2d(8, 16, 4, stride=2)),
            ("mixed_7", nn.Conv2d(16, 2048, 1)),
            ("relu", nn.ReLU()),
            ("pool2", nn.AvgPool2d(17)),
        ]
        self.layers = nn.Sequential(OrderedDict(layers))
        self.output = nn.Linear(2048, classes)

    def forward(self, x: torch.Tensor, return_features: bool = False, no_output_bias: bool = False):
        height, width = x.shape[2], x.shape[3]
        rows = (2 * torch.arange(299, device=x.device) / 299 * height + 1) / height - 1
        columns = (2 * torch.arange(299, device=x.device) / 299 * width + 1) / width - 1
        places = torch.stack([columns[None, :].expand(299, 299), rows[:, None].expand(299, 299)], 2)
        grid = places[None].expand(x.shape[0], 299, 299, 2)
        resized = functional.grid_sample(x.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
        features = self.layers((resized - 128) / 128).reshape(-1, 2048)
        if return_features:
            return features
        bias = torch.zeros_like(self.output.bias) if no_output_bias else self.output.bias
        return (features @ self.output.weight.T + bias).softmax(1)


def write_script(path, module: nn.Module) -> str:
    """Write a module as a torchscript file and return its path."""
    torch.jit.script(module.eval()).save(str(path))
    return str(path)
