r"""Noise of clips that is correlated over frames i and j, :math:`\mathrm{Cov}[\epsilon^i, \epsilon^j] = \Sigma_{ij}`.

In :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon` each number of a frame has the covariance :math:`\Sigma` with the
same number of the other frames, and :math:`\Sigma_{ii} = 1`. In coordinates whitened by :math:`\Sigma` this is the
standard process, and all of the process is linear. So one thing changes: every draw of the process has the covariance
:math:`\Sigma`, in training, at the start of sampling and in each step of a stochastic sampler. Steps, solvers and
conversions between x0 and eps stay as they are, and exact. The score is :math:`-\Sigma^{-1} \epsilon / \sigma_t`.
"""

import functools
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.diffusion.measurement import Measurement


class ClipNoise(Part, ABC):
    r"""A covariance :math:`\Sigma` of the noise of clips over frames, for any number of frames F.

    :math:`\Sigma_{ij}` is the covariance of a number of frame i with the same number of frame j. All other numbers of a
    clip's noise are independent.

    Attributes:
        correlated: whether the noise of different frames is correlated; False for :class:`IndependentNoise` alone.
    """

    correlated = True
    requires = frozenset({"clips"})

    @abstractmethod
    def covariance(self, frames: int) -> Tensor:
        r"""Return :math:`\Sigma` for F frames, float64, (F, F), with a diagonal of ones; each subclass defines it."""

    def colour(self, z: Tensor) -> Tensor:
        r"""Return noise of covariance :math:`\Sigma` over frames, made of independent noise z (B, C, F, H, W), like z.

        It is a linear map, made of sums and products of whole frames, so that a clip's noise is the same in any batch,
        bit for bit.

        Raises:
            ValueError: z does not have five axes.
        """
        if z.ndim != 5:
            raise ValueError(
                f"noise that frames share needs clips (B, C, F, H, W), not {tuple(z.shape)}; use noise=independent"
            )
        return self._mixed(z)

    @abstractmethod
    def _mixed(self, z: Tensor) -> Tensor:
        """Return :meth:`colour` of z (B, C, F, H, W), whose shape has been checked."""

    def spread(self, x: Tensor, sigma: Tensor) -> Tensor:
        r"""Return :math:`S^{-1} \Sigma S x`, like x, where the matrices act on the frames of clips.

        It takes the place of a gradient x in formulas that are made for independent noise. So Tweedie's formula
        :math:`\epsilon = -\sigma s` for a score s becomes :math:`\epsilon = -\Sigma S s`. With one sigma for all frames
        the result is :math:`\Sigma x`.

        Args:
            x: a gradient by x_t, (B, C, F, H, W).
            sigma: sigma of each frame, the diagonal of S; broadcasts with x. A sigma of 0 or infinity counts as 1.
        """
        covariance = self.covariance(x.shape[2]).to(x)
        return _in_scaled_frames(sigma, x, lambda y: torch.einsum("fg,bcghw->bcfhw", covariance, y))

    def whiten(self, u: Tensor, ratio: Tensor, measurement: Measurement) -> Tensor:
        r"""Return :math:`D (\Sigma^{aa})^{-1} D^{-1} u`, like u; the matrices act on the measured frames a of clips.

        It takes the place of u in formulas that are made for independent noise. :math:`\Sigma^{aa}` has the rows and
        the columns of the measured frames alone.

        Args:
            u: a residual y - A x of clips, (B, C, F, H, W), which is 0 in frames that are not measured.
            ratio: sigma over alpha of each frame, the diagonal of D; broadcasts with u. A ratio of 0 or infinity counts
                as 1. With one ratio for all frames the result is :math:`(\Sigma^{aa})^{-1} u`.
            measurement: a measurement that acts on each frame by itself; its :meth:`~Measurement.frames` are a.

        Raises:
            ValueError: the measurement does not act on each frame by itself.
        """
        covariance = self.covariance(u.shape[2]).to(u)
        known = measurement.frames(u).to(u)  # (B, F)
        inverse = torch.linalg.inv(torch.diag_embed(1 - known) + known[:, :, None] * covariance * known[:, None])
        return _in_scaled_frames(1 / ratio, u, lambda scaled: torch.einsum("bfg,bcghw->bcfhw", inverse, scaled))


def _in_scaled_frames(scale: Tensor, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``change(x scale) / scale``; a scale of 0 or infinity, at an end of the schedule, counts as 1."""
    scale = torch.where((scale == 0) | scale.isinf(), 1.0, scale).to(x)
    return change(x * scale) / scale


class IndependentNoise(ClipNoise):
    r"""A noise that is independent between frames, :math:`\Sigma = I`; that of images, too.

    Video diffusion has it (Ho et al. 2022, arXiv:2204.03458).
    """

    correlated = False
    requires = frozenset()
    provides = frozenset({"independent_noise"})

    def covariance(self, frames: int) -> Tensor:
        return torch.eye(frames, dtype=torch.float64)

    def colour(self, z: Tensor) -> Tensor:
        return z

    _mixed = colour

    def spread(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x

    def whiten(self, u: Tensor, ratio: Tensor, measurement: Measurement) -> Tensor:
        return u


INDEPENDENT = IndependentNoise()


class SharedNoise(ClipNoise):
    r"""A noise with a base b that all frames of a clip share, and a residual r of each frame.

    .. math:: \epsilon^i = \sqrt\lambda \, b + \sqrt{1 - \lambda} \, r^i, \qquad
        \Sigma_{ij} = \lambda + (1 - \lambda) \delta_{ij},

    with independent standard normal b and :math:`r^i`. It is that of VideoFusion (Luo et al. 2023, arXiv:2303.08320),
    and the mixed noise of PYoCo (Ge et al. 2023, arXiv:2305.10474), with :math:`\lambda = \alpha^2 / (1 + \alpha^2)`.

    With ``key_frame`` the noise of the middle frame, number :math:`k = \lfloor F / 2 \rfloor` from 0, is the base
    itself (its lambda is 1). A network of images can then predict the base from that frame as from any image. In this
    case :math:`\Sigma_{ik} = \sqrt\lambda`, and the other covariances are as above.

    Args:
        share: lambda, the base's share of a frame's variance, in [0, 1). With 0 it is :class:`IndependentNoise`, bit
            for bit.
        key_frame: whether the middle frame's noise is the base.

    Raises:
        ValueError: the share is not in [0, 1).
    """

    def __init__(self, share: float = 0.5, key_frame: bool = False) -> None:
        if not 0 <= share < 1:
            raise ValueError(
                f"noise.share must lie in [0, 1), 1 excluded, not {share}: frames need noise of their own too"
            )
        self.share, self.key_frame = share, key_frame

    def weights(self, frames: int) -> tuple[Tensor, Tensor]:
        r"""Return the factors of the base and of the residual in the noise of each of F frames, float64, (F,) each.

        They are :math:`\sqrt{\lambda_i}` and :math:`\sqrt{1 - \lambda_i}`, where :math:`\lambda_i` is the share, or 1
        in a key frame.
        """
        share = torch.full((frames,), self.share, dtype=torch.float64)
        if self.key_frame:
            share[frames // 2] = 1
        return share.sqrt(), (1 - share).sqrt()

    def covariance(self, frames: int) -> Tensor:
        base, residual = self.weights(frames)
        return torch.outer(base, base) + torch.diag(residual**2)

    def _mixed(self, z: Tensor) -> Tensor:
        frames, own = z.shape[2], math.sqrt(1 - self.share)
        if self.key_frame:
            key = z[:, :, frames // 2]
            mixed = own * z + math.sqrt(self.share) * key[:, :, None]
            mixed[:, :, frames // 2] = key
            return mixed
        # The symmetric root of the covariance needs no more random numbers than the clip has.
        total = functools.reduce(operator.add, z.unbind(2))[:, :, None]
        return own * z + (math.sqrt(1 - self.share + self.share * frames) - own) / frames * total


class ProgressiveNoise(ClipNoise):
    r"""A noise in which that of each frame follows from the frame before, as an AR(1) process.

    .. math:: \epsilon^0 = z^0, \quad \epsilon^i = \rho \, \epsilon^{i-1} + \sqrt{1 - \rho^2} \, z^i, \qquad
        \Sigma_{ij} = \rho^{|i - j|},

    with independent standard normal :math:`z^i`. It is that of PYoCo (Ge et al. 2023, arXiv:2305.10474).

    Args:
        correlation: rho, the correlation of neighbouring frames, in [0, 1); the paper's
            :math:`\alpha / \sqrt{1 + \alpha^2}`, 0.894 for its alpha = 2.

    Raises:
        ValueError: the correlation is not in [0, 1).
    """

    def __init__(self, correlation: float = 0.894) -> None:
        if not 0 <= correlation < 1:
            raise ValueError(f"noise.correlation must lie in [0, 1), 1 excluded, not {correlation}")
        self.correlation = correlation

    def covariance(self, frames: int) -> Tensor:
        i = torch.arange(frames)
        return torch.tensor(self.correlation, dtype=torch.float64) ** (i[:, None] - i).abs()

    def _mixed(self, z: Tensor) -> Tensor:
        new, frames = math.sqrt(1 - self.correlation**2), [z[:, :, 0]]
        for frame in z.unbind(2)[1:]:
            frames.append(self.correlation * frames[-1] + new * frame)
        return torch.stack(frames, 2)
