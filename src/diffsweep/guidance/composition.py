"""The composition of two guidances: one wraps the other."""

from collections.abc import Callable

from torch import Tensor

from diffsweep.diffusion import Denoiser, PlainDenoiser


def composed(
    denoiser: Denoiser | PlainDenoiser,
    inner: Callable[..., Denoiser],
    outer: Callable[..., Denoiser],
    times: Tensor | None = None,
) -> Denoiser:
    """Return ``outer(inner(denoiser))``: the inner guidance wraps the denoiser, and the outer one wraps the result.

    Args:
        denoiser: the denoiser to guide; an object that has ``schedule`` and ``__call__`` alone is accepted.
        inner, outer: functions that wrap a denoiser in guidance, called as ``guidance(denoiser, times=times)``.
        times: the times of the sampler's steps, (steps + 1,); only guidance with a list of scales needs them.
    """
    return outer(inner(denoiser, times=times), times=times)
