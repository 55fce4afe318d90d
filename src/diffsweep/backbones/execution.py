"""How networks are computed: operation by operation, or compiled to fewer and larger operations by torch.compile.

Compilation changes neither weights nor their names, and results within rounding alone. It happens at the first call of
each kind (training or not, batch size), for static shapes.
"""

import difflib
import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from diffsweep.backbones.base import Backbone, one_of
from diffsweep.capabilities import Part
from diffsweep.errors import line_of
from diffsweep.layers.distributed import is_first
from diffsweep.precision import Products, float32_products

Regions = Literal["none", "network", "blocks"]
REGIONS = ("none", "network", "blocks")
USUAL = ("inductor", "aot_eager", "eager", "cudagraphs")  # backends that every torch has
KINDS = 64  # of calls that are compiled in one process; torch's own limit, 8, ends within a sweep of one process
ORDERS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of dimensions of a weight
GRAPHED = frozenset({"cuda"})  # types of devices whose calls can be recorded


class Execution(Part):
    """A way of computing networks, which is given them once, before training or sampling, and changes them in place.

    A compiled network is the same module, with the same parameters under the same names: checkpoints, averages of the
    weights and optimizers do not depend on it, and a copy of it (``copy.deepcopy``) is not compiled. Each batch size is
    compiled once for training and once for sampling (``dynamic=False``); after 64 such kinds in one process (8 with a
    torch that has no ``recompile_limit``) torch compiles no more, and computes the others as with ``none``.

    If compilation fails, in the compiler or before it, as without a C++ compiler, one warning is printed, and the
    networks are computed operation by operation as before, with the same weights.

    With ``cuda_graphs`` each call without gradients, as in sampling, is recorded once for each batch size and replayed
    after: one launch in place of one for each operation, which helps where launching takes longer than computing, in
    small networks. A replay writes into the memory of the one before, so the output is copied, and what samplers keep
    of earlier steps stays as it was. Calls with gradients are compiled and not recorded: gradients that accumulate over
    several batches would lie in memory that the next replay overwrites. Where the network is not on a CUDA device one
    warning is printed, and nothing is recorded.

    Args:
        compile: ``none``; ``network``: the whole network is one program; ``blocks``: each of the equal blocks of a
            transformer is, and all share one compilation, whose time does not grow with their number.
        backend: the compiler, a name that ``torch.compile`` knows, such as ``inductor``.
        cuda_graphs: whether calls without gradients are recorded as CUDA graphs, by the backend's option
            ``triton.cudagraphs``.
        matmul_precision: how matrices of float32 are multiplied while a command runs: see :meth:`products`.
        channels_last: whether weights of convolutions are in memory channel by channel for each place, the order in
            which GPUs compute them, in place; their values and those of checkpoints are the same.

    Raises:
        ValueError: ``compile`` or ``matmul_precision`` is no such word, torch has no such compiler, or ``cuda_graphs``
            is chosen without ``compile=network``: a block's output would be overwritten before a later block reads it.
    """

    def __init__(
        self,
        compile: Regions = "none",
        backend: str = "inductor",
        cuda_graphs: bool = False,
        matmul_precision: Products = "highest",
        channels_last: bool = False,
    ) -> None:
        one_of("compile", compile, REGIONS, group="execution")
        one_of("matmul_precision", matmul_precision, get_args(Products), group="execution")
        self.matmul_precision, self.channels_last = matmul_precision, channels_last
        self.compile, self.backend, self.cuda_graphs = compile, backend, cuda_graphs
        if cuda_graphs and compile != "network":
            raise ValueError(
                f"execution.cuda_graphs=true records whole networks, not execution.compile={compile}; use "
                "execution.compile=network"
            )
        if compile == "blocks":
            self.requires = frozenset({"equal_blocks"})
        if backend not in USUAL:
            _check_backend(backend)

    def __call__(self, networks: Sequence[nn.Module]) -> None:
        """Compile networks in place, with ``compile``, and order their weights, with ``channels_last``.

        Args:
            networks: the networks of a model; of these, with ``blocks``, the :meth:`~Backbone.equal_blocks` of each
                :class:`Backbone` in them.
        """
        if self.channels_last:
            for weight in (weight for network in networks for weight in network.parameters()):
                weight.data = weight.data.contiguous(memory_format=ORDERS.get(weight.ndim, torch.contiguous_format))
        if self.compile == "none":
            return
        compiler = _Compiler(self.backend)
        for part in networks if self.compile == "network" else _blocks_of(networks):
            try:
                call = _Compiled(part, compiler, self.cuda_graphs)
            except RuntimeError as error:  # a Python or a system without torch.compile
                compiler.give_up(error)
                return
            part._compiled_call_impl = call  # where ``nn.Module.compile`` puts it, and copies leave it out

    def products(self) -> AbstractContextManager[None]:
        """Return a context in which matrices of float32 are multiplied with ``matmul_precision``."""
        return float32_products(self.matmul_precision)


def _check_backend(name: str) -> None:
    """Raise a ValueError unless torch has a backend of a name, which is none of the usual ones."""
    from torch._dynamo import list_backends  # takes a second

    if name not in (every := list_backends(exclude_tags=())):
        near = difflib.get_close_matches(name, [*USUAL, *every], n=1)
        raise ValueError(
            f"execution.backend={name}: torch has no such backend{f', did you mean {near[0]}?' if near else ';'} "
            f"the usual ones are {', '.join(USUAL)}"
        )


def _blocks_of(networks: Sequence[nn.Module]) -> list[nn.Module]:
    backbones = [part for network in networks for part in network.modules() if isinstance(part, Backbone)]
    return [block for backbone in backbones for block in backbone.equal_blocks()]


class _Compiled:
    """The call of a module: by its compiled code, or operation by operation once a compilation has failed.

    Args:
        module: the module.
        compiler: that of all modules which are computed alike.
        cuda_graphs: whether calls without gradients are recorded.
    """

    def __init__(self, module: nn.Module, compiler: "_Compiler", cuda_graphs: bool) -> None:
        self.compiler, self.plain = compiler, module._call_impl
        self.compiled = _compiled(self.plain, backend=compiler)
        self.recorded: Callable[..., Any] | None = None
        if cuda_graphs:
            self.recorded = _compiled(self.plain, backend=compiler.name, options={"triton.cudagraphs": True})
        self.weight = next(module.parameters(), None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.compiler.failed:
            return self.plain(*args, **kwargs)
        from torch._dynamo.exc import TorchDynamoException

        try:
            if self.recorded is None or torch.is_grad_enabled():
                return self.compiled(*args, **kwargs)
            if self.weight is None or self.weight.device.type in GRAPHED:
                return _copied(self.recorded(*args, **kwargs))
            self.compiler.warn(
                f"execution.cuda_graphs=true records calls on CUDA devices, not on {self.weight.device.type}; the "
                "network is compiled and not recorded"
            )
            self.recorded = None
            return self.compiled(*args, **kwargs)
        except (TorchDynamoException, AssertionError, IndexError) as error:  # of torch's tracing and of its compilers
            self.compiler.give_up(error)
        return self.plain(*args, **kwargs)


def _compiled(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        settings["recompile_limit"] = KINDS
    compiled: Callable[..., Any] = torch.compile(function, dynamic=False, **settings)
    return compiled


def _copied(output: Any) -> Any:
    """Return copies of the tensors of an output, a tensor or a tuple of outputs: no replay writes into them."""
    if isinstance(output, tuple):
        return tuple(_copied(each) for each in output)
    return output.clone() if isinstance(output, Tensor) else output


class _Compiler:
    """A backend of torch.compile that stands for another, and compiles the backward pass with the forward pass.

    So what cannot be compiled is found before anything is computed. Of an output one gradient can be taken: the
    backward pass writes over what it needs (``uncompiled`` of ``layers/modes.py`` is for more).
    """

    def __init__(self, name: str) -> None:
        self.name, self.failed = name, False
        self._warned: set[str] = set()

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        from torch._dynamo import lookup_backend
        from torch._functorch import config

        with config.patch(force_non_lazy_backward_lowering=True):
            compiled: Callable[..., Any] = lookup_backend(self.name)(graph, inputs)
        return compiled

    def give_up(self, error: Exception) -> None:
        """Print once that networks are computed without the compiler from now on, and why."""
        cause = line_of(getattr(error, "inner_exception", error))
        if not self.failed:
            self.warn(
                f"execution.backend={self.name} cannot compile here ({cause[:200]}); the network is computed without "
                "it, as with execution=eager"
            )
        self.failed = True

    def warn(self, message: str) -> None:
        """Print a warning, on the first process and once."""
        if message not in self._warned and is_first():
            print(f"warning: {message}", file=sys.stderr, flush=True)
        self._warned.add(message)
