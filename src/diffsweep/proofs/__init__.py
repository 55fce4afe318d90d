r"""Proofs for ``verify.py``: checks of a schedule, prediction, sampler and guidance that need no training.

The data are Gaussians or mixtures of Gaussians, whose exact denoiser :math:`E[x_0 | x_t]` is known. The chosen parts
run on this denoiser, through the chosen prediction, in float64. On Gaussian data a sampler's result is affine in the
first x and in the noise of its steps, so the mean and the covariance of its samples are computed, not estimated. On a
mixture of Gaussians the probability-flow ODE is not linear; on it orders of convergence are measured, and samples are
compared by their sliced Wasserstein distance.

A proof is a function that is marked with :func:`proof`, takes a :class:`Subject` and yields :class:`Check`. Every file
of this package is searched for proofs, and so are the packages that ``trust=[...]`` names.
"""

from diffsweep.proofs.base import Check, Curve, Subject, proof

__all__ = ["Check", "Curve", "Subject", "proof"]
