"""The learned noise schedule of variational diffusion models."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.schedules.continuous import LogSNRSchedule


class Learned(LogSNRSchedule):
    r"""A monotone network (Kingma et al. 2021, arXiv:2107.00630, app. H), variance preserving:
    :math:`-\lambda(t) = \gamma(t) = \gamma_0 + (\gamma_1 - \gamma_0) \frac{n(t) - n(0)}{n(1) - n(0)}`,
    :math:`n(t) = l_1(t) + l_3(\mathrm{logistic}(l_2(l_1(t))))`, all weights positive.

    The endpoints :math:`\gamma_0, \gamma_1` minimise the bound. In continuous time the bound does not depend on the shape in
    between; only the variance of its estimate does, so the shape is trained on the squared loss: see
    :meth:`minimise_variance`.

    Args:
        log_snr_min: the log-SNR at t = 1 at first.
        log_snr_max: the log-SNR at t = 0 at first.
        width: hidden units of the monotone network.
    """

    learned = True

    def __init__(self, log_snr_min: float = -5.0, log_snr_max: float = 13.3, width: int = 1024) -> None:
        super().__init__()
        if not log_snr_min < log_snr_max:
            raise ValueError(f"schedule needs log_snr_min < log_snr_max, not {log_snr_min} and {log_snr_max}")
        if width < 1:
            raise ValueError(f"schedule.width must be at least 1, not {width}")
        self.gamma_0 = nn.Parameter(torch.tensor(-log_snr_max))
        self.gamma_1 = nn.Parameter(torch.tensor(-log_snr_min))
        self.l1 = _Positive(1, 1, weight=log_snr_max - log_snr_min, bias=-log_snr_max)
        self.l2 = _Positive(1, width, weight=None, bias=0.0)
        self.l3 = _Positive(width, 1, weight=None, bias=None)
        self._losses: Tensor | None = None

    def _network(self, t: Tensor) -> Tensor:
        straight = self.l1(t)  # (..., 1)
        bend = self.l3(2 * (torch.sigmoid(self.l2(straight)) - 0.5)) / self.l2.weight.shape[0]
        return straight + bend

    def _shape(self, t: Tensor) -> Tensor:
        """From 0 at t = 0 to 1 at t = 1, monotone; on the parameters' device."""
        t = t.to(self.gamma_0.device)
        ends = self._network(torch.arange(2, dtype=t.dtype, device=t.device)[:, None])  # (2, 1)
        return (self._network(t[..., None])[..., 0] - ends[0, 0]) / (ends[1, 0] - ends[0, 0])  # (...)

    def _on_squares(self, value: Tensor) -> Tensor:
        """``value``, whose gradients are those of the squared loss where :meth:`minimise_variance` is in force."""
        if value.requires_grad and self._losses is not None and value.shape == self._losses.shape:
            losses = self._losses  # known when gradients flow back, not yet here
            value.register_hook(lambda gradient: 2 * losses.to(gradient) * gradient)
        return value

    def exact_log_snr(self, t: Tensor) -> Tensor:
        gamma_0, gamma_1 = self.gamma_0.to(t.dtype), self.gamma_1.to(t.dtype)
        return -(gamma_0 + (gamma_1 - gamma_0) * self._on_squares(self._shape(t))).to(t.device)

    def log_snr_rate(self, t: Tensor) -> Tensor:
        with torch.enable_grad():
            t = t if t.requires_grad else t.detach().requires_grad_()
            (rate,) = torch.autograd.grad(self._shape(t.double()).sum(), t, create_graph=True)
        if not torch.is_grad_enabled():
            rate = rate.detach()
        return -(self.gamma_1 - self.gamma_0).to(rate) * self._on_squares(rate)

    def embedded_time(self, t: Tensor) -> Tensor:
        """The network is told the noise level, 1000 times the log-SNR's way from one end to the other: what it has learned
        of a level stays right when the shape changes."""
        return (1000 * self._on_squares(self._shape(t.double()))).to(t)

    def minimise_variance(self, losses: Tensor | None) -> None:
        r"""From here on gradients through the *shape* are those of the squared loss: times :math:`2 L_i`, sample by sample
        (app. I.2 of the paper: :math:`\nabla \mathbb{E}[L^2] = \mathbb{E}[2 L \nabla L]`; the mean of the estimate does not depend on
        the shape, so its second moment is its variance plus a constant). Those of the endpoints and of the network stay.

        Args:
            losses: a buffer (B,) that holds the losses of the samples when gradients flow back; None for plain gradients.
        """
        self._losses = losses

    @torch.no_grad()
    def exact_time_of(self, log_snr: Tensor) -> Tensor:
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(60):  # bisection: the function is monotone and has no inverse in closed form
            middle = (low + high) / 2
            above = self.exact_log_snr(middle) > log_snr
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return (low + high) / 2


class _Positive(nn.Module):
    """A linear map with positive weights, so monotone: ``y = |W| x + b``."""

    def __init__(self, inputs: int, outputs: int, weight: float | None, bias: float | None) -> None:
        super().__init__()
        start = torch.randn(outputs, inputs) if weight is None else torch.full((outputs, inputs), float(weight))
        self.weight = nn.Parameter(start)
        self.bias = None if bias is None else nn.Parameter(torch.full((outputs,), float(bias)))

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.linear(x, self.weight.abs().to(x.dtype), bias)
