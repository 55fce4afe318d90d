r"""Weightings of squared errors over noise levels, :math:`w(\lambda) \lVert x_0 - \hat x_0 \rVert^2`, in units of x_0.

Here :math:`\lambda = \log(\alpha_t^2 / \sigma_t^2)` is the log-SNR and :math:`\hat x_0` the denoiser's estimate. An
error of the network's output F is multiplied by :math:`c_{out} = \partial x_0 / \partial F` to give one of x_0. So a
squared error in units of the output is multiplied by :math:`w(\lambda) c_{out}^2`, and one weighting is the same loss
for every prediction. Only :class:`UniformWeighting` is in units of the output.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.diffusion.denoiser import Denoiser


class Weighting(Part, ABC):
    """A weight for each sample, or each frame, that depends on its noise level."""

    provides = frozenset({"weights"})

    @abstractmethod
    def __call__(self, denoiser: Denoiser, t: Tensor) -> Tensor:
        """Return the factor of squared errors of the output at times ``t``, (B,) or (B, F): like t, float64."""

    def weigh(self, losses: Tensor, denoiser: Denoiser, t: Tensor) -> Tensor:
        """Return weighted losses.

        Args:
            losses: squared errors in units of the output, (B,); or (B, F), of each frame.
            denoiser: the denoiser whose schedule and prediction give noise level and units.
            t: times, like the losses.
        """
        return losses * self(denoiser, t).to(losses)


class X0Weighting(Weighting):
    r"""A weight :math:`w(\lambda)` of squared errors of x_0 by their log-SNR, which a subclass defines."""

    @abstractmethod
    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        """Return w, the factor of squared errors of x_0, at log-SNRs of any shape, float64."""

    def __call__(self, denoiser: Denoiser, t: Tensor) -> Tensor:
        t = t.double()
        alpha, sigma = denoiser.schedule(t)
        c_out = denoiser.prediction.coefficients(alpha, sigma).c_out
        return self.in_x0_units(denoiser.schedule.log_snr(t)) * c_out**2


class UniformWeighting(Weighting):
    """The weight 1 in units of the network's output: for eps the simple loss of DDPM."""

    provides = frozenset()  # nothing is weighted

    def __call__(self, denoiser: Denoiser, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float64)

    def weigh(self, losses: Tensor, denoiser: Denoiser, t: Tensor) -> Tensor:
        return losses


class SNR(X0Weighting):
    """The weight SNR on squared errors of x_0: for every prediction the simple loss on eps."""

    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp()


class TruncatedSNR(X0Weighting):
    """The weight max(SNR, 1), which keeps weight where no signal is left (Salimans & Ho 2022, arXiv:2202.00512)."""

    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp().clamp(min=1)


class MinSNR(X0Weighting):
    """The weight min(SNR, gamma) (Hang et al. 2023, arXiv:2303.09556).

    In units of the output it is min(SNR, gamma) / SNR for eps and min(SNR, gamma) / (SNR + 1) for v.

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
    r"""The weight SNR / (k + SNR)^gamma (Choi et al. 2022, arXiv:2204.00227).

    On errors of eps it is :math:`(k + \mathrm{SNR})^{-\gamma}`.

    Args:
        k, gamma: as in the paper, which sets both to 1.
    """

    def __init__(self, k: float = 1.0, gamma: float = 1.0) -> None:
        if k <= 0 or gamma < 0:
            raise ValueError(f"weighting needs k > 0 and gamma >= 0, not {k} and {gamma}")
        self.k, self.gamma = k, gamma

    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        snr = log_snr.exp()
        return snr / (self.k + snr) ** self.gamma


class EDMWeighting(X0Weighting):
    r"""The weight SNR + 1/sigma_data^2, which is 1 in units of EDM's preconditioned output.

    At alpha = 1 it is :math:`(\sigma^2 + \sigma_{data}^2) / (\sigma \sigma_{data})^2` (Karras et al. 2022,
    arXiv:2206.00364).

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
    r"""The weight :math:`e^b \, \mathrm{logistic}(\lambda - b)`, a soft minimum of SNR and :math:`e^b`.

    On errors of eps it is :math:`\mathrm{logistic}(b - \lambda)` (Kingma & Gao 2023, arXiv:2303.00848; simpler
    diffusion, arXiv:2410.19324).

    Args:
        bias: b; -3 in simpler diffusion.
    """

    def __init__(self, bias: float = -3.0) -> None:
        self.bias = bias

    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        return torch.exp(torch.nn.functional.logsigmoid(log_snr - self.bias) + self.bias)
