"""No guidance."""

from torch import Tensor

from diffsweep.diffusion import Denoiser


def unguided(denoiser: Denoiser, times: Tensor | None = None) -> Denoiser:
    """The denoiser itself."""
    return denoiser
