r"""Weightings of the squared error over noise levels.

A weighting is a function of the log-SNR :math:`\lambda` in **x0 units**: the loss is
:math:`w(\lambda) \lVert x_0 - \hat x_0 \rVert^2`. An error of the network's output is :math:`dx_0 / dF` times smaller or larger in
x0 (the prediction's ``c_out``), so a loss taken in output units is multiplied by :math:`w(\lambda) (dx_0/dF)^2`: one weighting
is the same loss for every prediction. Only :class:`UniformWeighting` is in output units.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.diffusion.denoiser import Denoiser


class Weighting(Part, ABC):
    """A weight for each sample."""

    provides = frozenset({"weights"})

    @abstractmethod
    def __call__(self, denoiser: Denoiser, t: Tensor) -> Tensor:
        """What multiplies squared errors of the output at times ``t``, (B,) or (B, F): like t, float64."""

    def weigh(self, losses: Tensor, denoiser: Denoiser, t: Tensor) -> Tensor:
        """Losses in output units at times ``t``, both (B,) or, of each frame, (B, F), weighted."""
        return losses * self(denoiser, t).to(losses)


class X0Weighting(Weighting):
    """A function of the log-SNR in x0 units. A subclass defines :meth:`in_x0_units`."""

    @abstractmethod
    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        """w at a log-SNR, any shape, float64."""

    def __call__(self, denoiser: Denoiser, t: Tensor) -> Tensor:
        t = t.double()
        alpha, sigma = denoiser.schedule(t)
        c_out = denoiser.prediction.coefficients(alpha, sigma).c_out
        return self.in_x0_units(denoiser.schedule.log_snr(t)) * c_out**2


class UniformWeighting(Weighting):
    """1 in the units of the network's output: the simple loss of DDPM for eps."""

    provides = frozenset()  # nothing is weighted

    def __call__(self, denoiser: Denoiser, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float64)

    def weigh(self, losses: Tensor, denoiser: Denoiser, t: Tensor) -> Tensor:
        return losses


class SNR(X0Weighting):
    """The SNR: the simple loss on eps, whatever is predicted."""

    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp()


class TruncatedSNR(X0Weighting):
    """max(SNR, 1) (progressive distillation, Salimans & Ho 2022, arXiv:2202.00512): also learns where no signal is left."""

    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp().clamp(min=1)


class MinSNR(X0Weighting):
    r"""min(SNR, gamma) (Hang et al. 2023, arXiv:2303.09556); in output units min(SNR, gamma)/SNR for eps and
    min(SNR, gamma)/(SNR + 1) for v.

    Args:
        gamma: the largest weight.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        if gamma <= 0:
            raise ValueError(f"weighting.gamma must be positive, not {gamma}")
        self.gamma = gamma

    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp().clamp(max=self.gamma)


class P2(X0Weighting):
    r"""SNR / (k + SNR)^gamma: :math:`(k + \mathrm{SNR})^{-\gamma}` on eps (Choi et al. 2022, arXiv:2204.00227).

    Args:
        k, gamma: as in the paper; both 1 there.
    """

    def __init__(self, k: float = 1.0, gamma: float = 1.0) -> None:
        if k <= 0 or gamma < 0:
            raise ValueError(f"weighting needs k > 0 and gamma >= 0, not {k} and {gamma}")
        self.k, self.gamma = k, gamma

    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        snr = log_snr.exp()
        return snr / (self.k + snr) ** self.gamma


class EDMWeighting(X0Weighting):
    r"""SNR + 1/sigma_data^2, :math:`(\sigma^2 + \sigma_{data}^2) / (\sigma \sigma_{data})^2` at alpha = 1 (Karras et al. 2022,
    arXiv:2206.00364): 1 in the units of EDM's preconditioned output.

    Args:
        sigma_data: standard deviation of the data.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        if sigma_data <= 0:
            raise ValueError(f"weighting.sigma_data must be positive, not {sigma_data}")
        self.sigma_data = sigma_data

    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp() + self.sigma_data**-2


class SigmoidWeighting(X0Weighting):
    r""":math:`e^b \, \mathrm{logistic}(\lambda - b)`, which is :math:`\mathrm{logistic}(b - \lambda)` on eps (Kingma & Gao 2023,
    arXiv:2303.00848; simpler diffusion, arXiv:2410.19324): a soft min-SNR.

    Args:
        bias: b; -3 in simpler diffusion.
    """

    def __init__(self, bias: float = -3.0) -> None:
        self.bias = bias

    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        return torch.exp(torch.nn.functional.logsigmoid(log_snr - self.bias) + self.bias)
