"""Guidance around guidance."""

from collections.abc import Callable

from torch import Tensor

from diffsweep.diffusion import Denoiser, PlainDenoiser


def composed(
    denoiser: Denoiser | PlainDenoiser,
    inner: Callable[..., Denoiser],
    outer: Callable[..., Denoiser],
    times: Tensor | None = None,
) -> Denoiser:
    """Return a denoiser under ``inner`` guidance, and that one under ``outer`` guidance."""
    return outer(inner(denoiser, times=times), times=times)
