"""No guidance."""

from diffsweep.diffusion import Denoiser


def unguided(denoiser: Denoiser) -> Denoiser:
    """The denoiser itself."""
    return denoiser
