"""A network as a module of tensors alone, with an example of its inputs: what formats of computation graphs need."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from diffsweep.autoencoders import FirstStage
from diffsweep.diffusion import Condition
from diffsweep.models import DiffusionModel

TOKENS = 8  # tokens of the example's texts
# Inputs for the parts of a condition that a network accepts, by the name of their size: the names of the fields of the
# condition, and a function of (batch, size, image size) that gives examples of them.
INPUTS: dict[str, dict[str, Callable[[int, int, int], Tensor]]] = {
    "num_classes": {"vector": lambda batch, size, _: torch.arange(batch) % (size + 1)},
    "vector_dim": {"vector": lambda batch, size, _: torch.randn(batch, size)},
    "num_scalars": {"scalars": lambda batch, size, _: torch.rand(batch, size)},
    "context_dim": {
        "tokens": lambda batch, size, _: torch.randn(batch, TOKENS, size),
        "token_mask": lambda batch, size, _: torch.ones(batch, TOKENS, dtype=torch.bool),
    },
    "image_channels": {"image": lambda batch, size, side: torch.randn(batch, size, side, side)},
}


class PlainNetwork(nn.Module):
    """A backbone that is called with tensors alone: ``output = network(x, c_noise, *parts of the condition)``.

    The id K of K classes is the null class.

    Args:
        backbone: the network.
        fields: the fields of the condition that follow x and c_noise, in this order.
    """

    def __init__(self, backbone: nn.Module, fields: tuple[str, ...]) -> None:
        super().__init__()
        self.backbone, self.fields = backbone, fields

    def forward(self, x: Tensor, c_noise: Tensor, *parts: Tensor) -> Tensor:
        named: dict[str, Any] = dict(zip(self.fields, parts, strict=True))
        cond = Condition(**named) if parts else None
        return self.backbone(x, c_noise, cond)


class PlainDecoder(nn.Module):
    """The decoder of an autoencoder, from points z of the space of diffusion to pixels."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, z: Tensor) -> Tensor:
        return self.autoencoder.decode(z)


class Graph:
    """A module to be written as a computation graph, with the names and examples of its inputs.

    Attributes:
        name: ``network`` or ``decoder``.
        module: the module, on the CPU in float32.
        inputs: the names of its inputs, in order.
        example: a function of the batch that returns examples of them.
    """

    def __init__(
        self, name: str, module: nn.Module, inputs: tuple[str, ...], example: Callable[[int], tuple[Tensor, ...]]
    ) -> None:
        self.name, self.module, self.inputs, self.example = name, module.eval(), inputs, example


def graphs_of(model: DiffusionModel) -> list[Graph]:
    """Return the graphs of a model: its network, and the decoder of its latents if it diffuses in latents."""
    backbone: Any = model.denoiser.backbone.cpu().float()
    shape = model.autoencoder.shape
    parts = {field: (make, size) for key, size in backbone.accepts.items() for field, make in INPUTS[key].items()}

    def example(batch: int) -> tuple[Tensor, ...]:
        conditions = (make(batch, size, shape[-1]) for make, size in parts.values())
        return torch.randn(batch, *shape), torch.linspace(0, 999, batch), *conditions

    found = [Graph("network", PlainNetwork(backbone, tuple(parts)), ("x", "c_noise", *parts), example)]
    if isinstance(model.autoencoder, FirstStage):
        decoder = PlainDecoder(model.autoencoder.trained)
        found.append(Graph("decoder", decoder, ("z",), lambda batch: (torch.randn(batch, shape[0], *shape[-2:]),)))
    return found
