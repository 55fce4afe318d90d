"""The option ``guidance=none``: a denoiser without guidance."""

from torch import Tensor

from diffsweep.diffusion import Denoiser, PlainDenoiser, as_denoiser


def unguided(denoiser: Denoiser | PlainDenoiser, times: Tensor | None = None) -> Denoiser:
    """Return the denoiser itself.

    Args:
        denoiser: any denoiser, or an object that has ``schedule`` and ``__call__`` alone.
        times: not used; every guidance accepts the times of the sampler's steps.
    """
    return as_denoiser(denoiser)
