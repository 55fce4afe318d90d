"""How networks are computed: operation by operation, or compiled to fewer and larger operations by torch.compile.

Compilation changes neither weights nor their names, and results within rounding alone. It happens at the first call of
each kind (training or not, batch size), for static shapes.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffsweep.backbones.base import Backbone, one_of
from diffsweep.capabilities import Part
from diffsweep.errors import line_of
from diffsweep.layers.distributed import is_first

Regions = Literal["none", "network", "blocks"]
REGIONS = ("none", "network", "blocks")


class Execution(Part):
    """A way of computing networks, which is given them once, before training or sampling, and changes them in place.

    A compiled network is the same module, with the same parameters under the same names: checkpoints, averages of the
    weights and optimizers do not depend on it, and a copy of it (``copy.deepcopy``) is not compiled. Each batch size is
    compiled once for training and once for sampling (``dynamic=False``); after eight such kinds torch compiles no more,
    and computes the others as with ``none``.

    If the compiler fails, as without a C++ compiler, one warning is printed, and the network is computed operation by
    operation as before, with the same weights.

    Args:
        compile: ``none``; ``network``: the whole network is one program; ``blocks``: each of the equal blocks of a
            transformer is, and all share one compilation, whose time does not grow with their number.
        backend: the compiler, a name that ``torch.compile`` knows, such as ``inductor``.

    Raises:
        ValueError: ``compile`` is no such word, or torch has no such compiler.
    """

    def __init__(self, compile: Regions = "none", backend: str = "inductor") -> None:
        one_of("compile", compile, REGIONS, group="execution")
        self.compile, self.backend = compile, backend
        if compile == "blocks":
            self.requires = frozenset({"equal_blocks"})
        if compile != "none" and backend != "inductor":
            from torch._dynamo import list_backends  # takes a second, and inductor always exists

            one_of("backend", backend, list_backends(exclude_tags=()), group="execution")

    def __call__(self, networks: Sequence[nn.Module]) -> None:
        """Compile networks in place, or leave them as they are with ``compile=none``.

        Args:
            networks: the networks of a model; of these, with ``blocks``, the :meth:`~Backbone.equal_blocks` of each
                :class:`Backbone` in them.
        """
        if self.compile == "none":
            return
        compiler = _Compiler(self.backend)
        for part in networks if self.compile == "network" else _blocks_of(networks):
            try:
                part.compile(backend=compiler, dynamic=False)
            except RuntimeError as error:  # a Python or a system without torch.compile
                compiler.give_up(error)
                return


def _blocks_of(networks: Sequence[nn.Module]) -> list[nn.Module]:
    backbones = [part for network in networks for part in network.modules() if isinstance(part, Backbone)]
    return [block for backbone in backbones for block in backbone.equal_blocks()]


class _Compiler:
    """A backend of torch.compile that leaves graphs as they are if the compiler it stands for has failed once."""

    def __init__(self, name: str) -> None:
        from torch._functorch import config

        self.name, self.failed = name, False
        config.donated_buffer = False  # gradients of one output can be taken several times, with retain_graph=True
        config.force_non_lazy_backward_lowering = True  # what cannot be compiled is found in the forward pass

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        if self.failed:
            return graph.forward
        from torch._dynamo import lookup_backend

        try:
            compiled: Callable[..., Any] = lookup_backend(self.name)(graph, inputs)
            return compiled
        except Exception as error:  # of a compiler, which can be any
            self.give_up(error)
            return graph.forward

    def give_up(self, error: Exception) -> None:
        """Print once that networks are computed without the compiler from now on, and why."""
        if not self.failed and is_first():
            print(
                f"warning: execution.backend={self.name} cannot compile here ({line_of(error)[:200]}); the network is "
                "computed without it, as with execution=eager",
                file=sys.stderr,
                flush=True,
            )
        self.failed = True
