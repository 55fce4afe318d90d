"""The option ``guidance=none``: a denoiser without guidance."""

from torch import Tensor

from diffsweep.diffusion import Denoiser, PlainDenoiser, as_denoiser


def unguided(denoiser: Denoiser | PlainDenoiser, times: Tensor | None = None) -> Denoiser:
    """Return the denoiser as it is, without guidance: the function of the option ``guidance=none``.

    Args:
        denoiser: any denoiser, or an object that has ``schedule`` and ``__call__`` alone, which is wrapped as one.
        times: not used; it is accepted because guidances are called with the times of the sampler's steps.
    """
    return as_denoiser(denoiser)
