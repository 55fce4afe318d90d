"""Denoising diffusion probabilistic models."""

from diffsweep.models.diffusion import DiffusionModel


class DDPM(DiffusionModel):
    """The family of Ho et al. 2020 (arXiv:2006.11239): one network, fixed variance, the simple loss."""
