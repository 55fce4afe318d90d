r"""Proofs of a schedule, a prediction, a sampler and guidance before any training: against data whose exact denoiser is known.

The denoiser is exact and answers through the chosen prediction, in float64. On Gaussian data a walk is affine in its start and its
draws, so the mean and the covariance of its samples are computed, not estimated; on a mixture of Gaussians, where the sampling ODE is not
linear, orders of convergence are measured and samples are compared by their sliced Wasserstein distance.

A proof is a function of a :class:`Subject` that yields :class:`Check` and is marked with :func:`proof`; every file of this package is
searched for them, and so are the packages that ``trust=[...]`` names.
"""

from diffsweep.proofs.base import Check, Curve, Subject, proof

__all__ = ["Check", "Curve", "Subject", "proof"]
