"""Context managers for the modes in which networks are computed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for the body of a ``with`` statement.

    Afterwards, also after an exception, each of its submodules is in the mode that it had before.
    """
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def uncompiled() -> Iterator[None]:
    """Compute compiled networks operation by operation for the body of a ``with`` statement.

    Hooks that are added to modules after their compilation require it: compiled code leaves them out. So do outputs of
    which several gradients are taken: the first backward pass of compiled code writes over what it needs.
    """
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
