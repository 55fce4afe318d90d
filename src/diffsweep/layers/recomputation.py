"""Modules whose inside is computed again in the backward pass, to save memory."""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, *inputs: Any, preserve_rng_state: bool = True, **keywords: Any) -> Any:
    """Return a module's output, which is computed again in the backward pass by the attention kernels of now: under
    ``sdpa_kernel(SDPBackend.MATH)``, whose second derivative exists, by its definition then too."""
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": preserve_rng_state}
    compiling = torch.compiler.is_compiling()  # which cannot ask for the kernels, and has no second derivatives
    if not compiling and not torch.backends.cuda.flash_sdp_enabled():
        settings["context_fn"] = lambda: (nullcontext(), _ByDefinition())
    return checkpoint(module, *inputs, **settings, **keywords)


class _ByDefinition(AbstractContextManager[None]):
    """``sdpa_kernel(SDPBackend.MATH)`` that can be entered again: a second derivative computes the inside twice."""

    def __enter__(self) -> None:
        self._entered = ExitStack()
        self._entered.enter_context(sdpa_kernel(SDPBackend.MATH))

    def __exit__(self, *exception: object) -> None:
        self._entered.close()
