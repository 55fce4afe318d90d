"""No guidance."""

from torch import Tensor

from diffsweep.diffusion import Denoiser, PlainDenoiser, as_denoiser


def unguided(denoiser: Denoiser | PlainDenoiser, times: Tensor | None = None) -> Denoiser:
    """Return the denoiser itself."""
    return as_denoiser(denoiser)
