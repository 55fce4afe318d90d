"""A count of the evaluations of a denoiser, by batches and by samples."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass
class Evaluations:
    """A count of the evaluations of a denoiser.

    Attributes:
        calls: the number of calls, each of which evaluates a batch.
        rows: the number of samples in all of these calls; classifier-free guidance evaluates two rows for each sample.
        partial: those of them whose call computed a part of the network (:class:`~diffsweep.backbones.FeatureCache`).
    """

    calls: int = 0
    rows: int = 0
    partial: int = 0


@contextmanager
def counting(denoiser: nn.Module) -> Iterator[Evaluations]:
    """Count the evaluations of a module, such as a denoiser or the one within guidance, during a ``with`` block.

    The block gets a count that grows with each call of the module: ``with counting(denoiser) as count``.
    """
    count = Evaluations()

    def count_call(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        count.calls += 1
        count.rows += len(arguments[0])
        count.partial += len(arguments[0]) if getattr(module, "partial", False) else 0

    handle = denoiser.register_forward_pre_hook(count_call)
    try:
        yield count
    finally:
        handle.remove()
