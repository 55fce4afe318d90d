"""Gradient checkpointing: modules whose activations are recomputed in the backward pass to save memory."""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, *inputs: Any, preserve_rng_state: bool = True, **keywords: Any) -> Any:
    """Return a module's output; its activations are not kept but recomputed in the backward pass (arXiv:1604.06174).

    Second derivatives of attention exist in PyTorch only under ``sdpa_kernel(SDPBackend.MATH)``. If this function is
    called under it, the recomputation uses that kernel too, since the backward pass may run after the ``with`` has
    ended.

    Args:
        module: the module.
        *inputs, **keywords: the arguments of the module's call.
        preserve_rng_state: recompute with the random state of the forward pass; only modules with dropout need it.
    """
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": preserve_rng_state}
    compiling = torch.compiler.is_compiling()  # the compiler cannot query the kernels, and has no second derivatives
    if not compiling and not torch.backends.cuda.flash_sdp_enabled():
        settings["context_fn"] = lambda: (nullcontext(), _MathKernel())
    return checkpoint(module, *inputs, **settings, **keywords)


class _MathKernel(AbstractContextManager[None]):
    """A context ``sdpa_kernel(SDPBackend.MATH)`` that can be entered again: second derivatives recompute twice."""

    def __enter__(self) -> None:
        self._entered = ExitStack()
        self._entered.enter_context(sdpa_kernel(SDPBackend.MATH))

    def __exit__(self, *exception: object) -> None:
        self._entered.close()
