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
    """A weight w of squared errors for each sample, or each frame, that depends on its noise level.

    A subclass defines the call ``weighting(denoiser, t)``, which returns the weights.
    """

    provides = frozenset({"weights"})

    @abstractmethod
    def __call__(self, denoiser: Denoiser, t: Tensor) -> Tensor:
        """Return the factor of squared errors of the network's output, like t, float64; each subclass defines it.

        Args:
            denoiser: the denoiser whose schedule and prediction give noise level and units.
            t: times, (B,) or (B, F).
        """

    def weigh(self, losses: Tensor, denoiser: Denoiser, t: Tensor) -> Tensor:
        """Return weighted losses, like ``losses``: each is multiplied by the weight of its time.

        Args:
            losses: squared errors in units of the network's output, (B,); or (B, F), of each frame.
            denoiser: the denoiser whose schedule and prediction give noise level and units.
            t: times, like the losses.
        """
        return losses * self(denoiser, t).to(losses)


class X0Weighting(Weighting):
    r"""A weight :math:`w(\lambda)` of squared errors of x_0 that is a function of their log-SNR :math:`\lambda`.

    A subclass defines w as :meth:`in_x0_units`. Squared errors of the network's output F get the weight
    :math:`w c_{out}^2`, with :math:`c_{out} = \partial x_0 / \partial F`, so that the loss is the same for every
    prediction.
    """

    @abstractmethod
    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        """Return w, the factor of squared errors of x_0, like ``log_snr``, float64; each subclass defines it."""

    def __call__(self, denoiser: Denoiser, t: Tensor) -> Tensor:
        t = t.double()
        alpha, sigma = denoiser.schedule(t)
        c_out = denoiser.prediction.coefficients(alpha, sigma).c_out
        return self.in_x0_units(denoiser.schedule.log_snr(t)) * c_out**2


class UniformWeighting(Weighting):
    """The weight 1 in units of the network's output: for a prediction of eps the simple loss of DDPM."""

    provides = frozenset()  # nothing is weighted

    def __call__(self, denoiser: Denoiser, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float64)

    def weigh(self, losses: Tensor, denoiser: Denoiser, t: Tensor) -> Tensor:
        return losses


class SNR(X0Weighting):
    """The weight SNR = alpha^2 / sigma^2 of squared errors of x_0: for every prediction the simple loss on eps."""

    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp()


class TruncatedSNR(X0Weighting):
    """The weight max(SNR, 1) of squared errors of x_0 (Salimans & Ho 2022, arXiv:2202.00512).

    It keeps weight where no signal is left. SNR is alpha^2 / sigma^2.
    """

    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp().clamp(min=1)


class MinSNR(X0Weighting):
    """The weight min(SNR, gamma) of squared errors of x_0 (Hang et al. 2023, arXiv:2303.09556).

    SNR is alpha^2 / sigma^2. In units of the network's output the weight is min(SNR, gamma) / SNR for eps and
    min(SNR, gamma) / (SNR + 1) for v.

    Args:
        gamma: the largest weight, positive.

    Raises:
        ValueError: gamma is not positive.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        if gamma <= 0:
            raise ValueError(f"weighting.gamma must be positive, not {gamma}")
        self.gamma = gamma

    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp().clamp(max=self.gamma)


class P2(X0Weighting):
    r"""The weight SNR / (k + SNR)^gamma of squared errors of x_0 (Choi et al. 2022, arXiv:2204.00227).

    SNR is alpha^2 / sigma^2. On squared errors of eps the weight is :math:`(k + \mathrm{SNR})^{-\gamma}`.

    Args:
        k, gamma: as in the paper, which sets both to 1; k is positive, and gamma at least 0.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, k: float = 1.0, gamma: float = 1.0) -> None:
        if k <= 0 or gamma < 0:
            raise ValueError(f"weighting needs k > 0 and gamma >= 0, not {k} and {gamma}")
        self.k, self.gamma = k, gamma

    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        snr = log_snr.exp()
        return snr / (self.k + snr) ** self.gamma


class EDMWeighting(X0Weighting):
    r"""The weight SNR + 1/sigma_data^2 of squared errors of x_0, which is 1 in units of EDM's preconditioned output.

    SNR is alpha^2 / sigma^2. At alpha = 1 the weight is :math:`(\sigma^2 + \sigma_{data}^2) / (\sigma \sigma_{data})^2`
    (Karras et al. 2022, arXiv:2206.00364).

    Args:
        sigma_data: standard deviation of the data, positive.

    Raises:
        ValueError: sigma_data is not positive.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        if sigma_data <= 0:
            raise ValueError(f"weighting.sigma_data must be positive, not {sigma_data}")
        self.sigma_data = sigma_data

    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp() + self.sigma_data**-2


class SigmoidWeighting(X0Weighting):
    r"""The weight :math:`e^b \, \mathrm{logistic}(\lambda - b)` of squared errors of x_0, a soft min of SNR and e^b.

    Here :math:`\lambda = \log \mathrm{SNR} = \log(\alpha^2 / \sigma^2)`. On squared errors of eps the weight is
    :math:`\mathrm{logistic}(b - \lambda)` (Kingma & Gao 2023, arXiv:2303.00848; simpler diffusion, arXiv:2410.19324).

    Args:
        bias: b; -3 in simpler diffusion.
    """

    def __init__(self, bias: float = -3.0) -> None:
        self.bias = bias

    def in_x0_units(self, log_snr: Tensor) -> Tensor:
        return torch.exp(torch.nn.functional.logsigmoid(log_snr - self.bias) + self.bias)
