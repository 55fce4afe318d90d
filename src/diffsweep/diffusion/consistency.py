r"""The prediction of consistency functions: :math:`f(x_t, t)` is where the sampling ODE ends, and x itself at its end.

.. math:: f(x_t, t) = c_{skip} x_t + c_{out} F(c_{in} x_t, c_{noise}), \qquad
    f(x, t_{lowest}) = x / \alpha

for the network F (Song et al. 2023, arXiv:2303.01469, section 3). The estimate of x_0 of such a denoiser is no mean of
clean samples but one of them, and the eps that belongs to it leads straight to it.
"""

import torch
from torch import Tensor

from diffsweep.diffusion.prediction import EDM, Coefficients, Scale, Variance

ROUNDING = 1e-6  # relative distance from the lowest noise level within which a level is that one


class ConsistencyPrediction(EDM):
    r"""A prediction whose x_0 is :math:`x_t / \alpha` at the lowest noise level, whatever the network puts out.

    With :math:`d = \sigma - \alpha \sigma_{min}`, which is 0 at the lowest level, and the network F,

    .. math:: x_0 = \frac{\alpha \sigma_{data}^2}{d^2 + \alpha^2 \sigma_{data}^2} x_t
        + \frac{\sigma_{data} d}{\sqrt{\sigma^2 + \alpha^2 \sigma_{data}^2}}
        F(x_t / \sqrt{\sigma^2 + \alpha^2 \sigma_{data}^2}, c_{noise}),
        \qquad c_{noise} = \tfrac14 \log(\sigma / \alpha).

    These are the paper's coefficients where alpha = 1 (app. C), and the same function of x_t / alpha on any other
    schedule. With sigma_min = 0 they are those of :class:`~diffsweep.diffusion.EDM`, so that the weights of such a
    diffusion model are those of a consistency function near t = 0.

    Args:
        variance: the variance of an ancestral step, see :class:`Prediction`.
        sigma_data: standard deviation of the data, positive.
        sigma_min: sigma / alpha of the lowest noise level, at least 0.
        time_scale, time_offset: see :class:`Prediction`.

    Raises:
        ValueError: sigma_data is not positive, or sigma_min is below 0.
    """

    def __init__(
        self,
        variance: Variance = "fixed_small",
        sigma_data: float = 0.5,
        sigma_min: float = 0.0,
        time_scale: float = 1.0,
        time_offset: float = 0.0,
    ) -> None:
        super().__init__(variance, sigma_data, time_scale, time_offset)
        if sigma_min < 0:
            raise ValueError(f"prediction.sigma_min must be at least 0, not {sigma_min}")
        self.sigma_min = sigma_min

    def _share(self, alpha: Scale, sigma: Scale) -> Scale:
        """Return d / sigma, in [0, 1]: exactly 0 at the lowest noise level and below."""
        if self.sigma_min == 0:
            return 1.0
        if isinstance(sigma, Tensor):
            share = 1 - alpha * self.sigma_min / sigma
            return torch.where(share > ROUNDING, share, torch.zeros_like(share))
        number = 1 - float(alpha) * self.sigma_min / sigma if sigma > 0 else 0.0
        return number if number > ROUNDING else 0.0

    def coefficients(self, alpha: Scale, sigma: Scale) -> Coefficients:
        d = sigma * self._share(alpha, sigma)
        signal = alpha * self.sigma_data**2
        c_skip = signal / (d**2 + alpha * signal)
        return Coefficients(self.c_in(alpha, sigma), c_skip, d * self.sigma_data / self._norm(alpha, sigma))

    def eps(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        share = self._share(alpha, sigma)
        d = sigma * share
        from_x = d / (d**2 + (alpha * self.sigma_data) ** 2)
        return share * (from_x * x_t - alpha * self.sigma_data / self._norm(alpha, sigma) * output)

    def target(self, x_0: Tensor, eps: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        """Return the output with which the estimates are x_0 and eps, like x_0; it is 0 at the lowest noise level.

        At that level all outputs give the same estimates.
        """
        share = self._share(alpha, sigma)
        if isinstance(share, Tensor):
            inverse: Scale = torch.where(share > 0, 1 / share, torch.zeros_like(share))
        else:
            inverse = 1 / share if share > 0 else 0.0
        d = sigma * share
        norm = self._norm(alpha, sigma)
        scale = norm / (d**2 + (alpha * self.sigma_data) ** 2)
        some = inverse * share  # 1, but 0 at the lowest noise level
        return scale * (some * d / self.sigma_data * x_0 - alpha * self.sigma_data * inverse * eps)
