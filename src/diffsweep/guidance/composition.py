"""Guidance around guidance."""

from collections.abc import Callable

from torch import Tensor

from diffsweep.diffusion import Denoiser


def composed(
    denoiser: Denoiser, inner: Callable[..., Denoiser], outer: Callable[..., Denoiser], times: Tensor | None = None
) -> Denoiser:
    """``outer`` guidance of what ``inner`` guidance gives."""
    return outer(inner(denoiser, times=times), times=times)
