r"""The learned noise schedule of variational diffusion models, whose log-SNR is a monotone network.

.. math:: \gamma(t) = \gamma_0 + (\gamma_1 - \gamma_0) \, s(t), \qquad s(0) = 0, \; s(1) = 1,

where :math:`-\gamma = \lambda = \log(\alpha_t^2 / \sigma_t^2)` is the log-SNR and s, the shape, increases. In
continuous time the variational bound depends on the end points :math:`\gamma_0, \gamma_1` but not on the shape. The
shape changes only the variance of the estimate at random times. So the end points are trained to minimise the bound,
and the shape to minimise that variance (:func:`minimise_variance`).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.schedules.continuous import LogSNRSchedule


class Learned(LogSNRSchedule):
    r"""A variance-preserving schedule whose log-SNR is a trained monotone network.

    It is that of VDM (Kingma et al. 2021, arXiv:2107.00630, app. H). The log-SNR :math:`\lambda` is
    :math:`-\lambda(t) = \gamma(t) = \gamma_0 + (\gamma_1 - \gamma_0) \frac{n(t) - n(0)}{n(1) - n(0)}` with the network
    :math:`n(t) = l_1(t) + l_3(\mathrm{logistic}(l_2(l_1(t))))` of linear layers whose weights are positive; in the code
    :math:`l_3` is scaled by 2 / width.

    The end points :math:`\gamma_0, \gamma_1` are trained to minimise the variational bound. The shape in between does
    not change the bound in continuous time, only the variance of its estimate, and is trained on the squared loss: see
    :func:`minimise_variance`.

    Args:
        log_snr_min: the initial log-SNR at t = 1.
        log_snr_max: the initial log-SNR at t = 0, above that at t = 1.
        width: hidden units of the monotone network, at least 1.

    Raises:
        ValueError: an argument is out of its range.
    """

    learned = True
    provides = frozenset({"rate", "learned_schedule"})

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
        self.shape_value = nn.Identity()  # every value of the shape passes it: a forward hook sees all

    def _network(self, t: Tensor) -> Tensor:
        straight = self.l1(t)  # (..., 1)
        bend = self.l3(2 * (torch.sigmoid(self.l2(straight)) - 0.5)) / self.l2.weight.shape[0]
        return straight + bend

    def _shape(self, t: Tensor) -> Tensor:
        """Return the shape ``(n(t) - n(0)) / (n(1) - n(0))``, which rises from 0 to 1, on the parameters' device."""
        t = t.to(self.gamma_0.device)
        ends = self._network(torch.arange(2, dtype=t.dtype, device=t.device)[:, None])  # (2, 1)
        return (self._network(t[..., None])[..., 0] - ends[0, 0]) / (ends[1, 0] - ends[0, 0])  # (...)

    def exact_log_snr(self, t: Tensor) -> Tensor:
        gamma_0, gamma_1 = self.gamma_0.to(t.dtype), self.gamma_1.to(t.dtype)
        return -(gamma_0 + (gamma_1 - gamma_0) * self.shape_value(self._shape(t))).to(t.device)

    def log_snr_rate(self, t: Tensor) -> Tensor:
        with torch.enable_grad():
            t = t if t.requires_grad else t.detach().requires_grad_()
            (rate,) = torch.autograd.grad(self._shape(t.double()).sum(), t, create_graph=True)
        if not torch.is_grad_enabled():
            rate = rate.detach()
        return -(self.gamma_1 - self.gamma_0).to(rate) * self.shape_value(rate)

    def embedded_time(self, t: Tensor) -> Tensor:
        """Return the number that a network is given for the time ``t``, like ``t``, in [0, 1000].

        It is 1000 times the fraction of the log-SNR's range that is passed at t. It depends on the noise level alone,
        so that what the network has learned of a level stays right when the shape changes. Only then does the bound of
        a given network not depend on the shape.
        """
        return (1000 * self.shape_value(self._shape(t.double()))).to(t)

    @contextmanager
    def shape_values(self) -> Iterator[list[Tensor]]:
        """Collect the values of the schedule's shape, and of its rate in t, that are computed within a ``with`` block.

        The shape is the log-SNR's curve between its end points, scaled to rise from 0 at t = 0 to 1 at t = 1. The
        ``with`` statement gives a list, to which each evaluation appends a tensor of the shape of its times.
        """
        values: list[Tensor] = []
        with self.shape_value.register_forward_hook(lambda _module, _inputs, value: values.append(value)):
            yield values

    @torch.no_grad()
    def exact_time_of(self, log_snr: Tensor) -> Tensor:
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(60):  # bisection: the function is monotone and has no inverse in closed form
            middle = (low + high) / 2
            above = self.exact_log_snr(middle) > log_snr
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return (low + high) / 2


def minimise_variance(shape_values: Iterable[Tensor], losses: Tensor) -> None:
    r"""Turn the gradients of the losses in the *shape* of the schedule into those of the squared losses.

    It registers hooks on ``shape_values``, so it is called between the losses and the backward pass. The shape is the
    curve of a learned schedule's log-SNR between its two end points. The gradient of each sample is multiplied by
    :math:`2 L_i`, since :math:`\nabla \mathbb{E}[L^2] = \mathbb{E}[2 L \nabla L]` (arXiv:2107.00630, app. I.2). The
    mean of the estimate does not depend on the shape, so the second moment is its variance plus a constant. The
    gradients of the end points and of the denoising network stay as they are, and one backward pass gives all of them.

    Args:
        shape_values: what :meth:`Learned.shape_values` collected while the losses were computed; tensors of another
            shape than the losses, such as the value at an end, stay as they are.
        losses: L_i of each sample, (B,).
    """
    twice = 2 * losses.detach()
    for value in shape_values:
        if value.requires_grad and value.shape == losses.shape:  # else of the whole batch, such as at an end
            value.register_hook(lambda gradient: twice.to(gradient) * gradient)


class _Positive(nn.Module):
    """A linear map with positive weights, ``y = |W| x + b``, which is monotone."""

    def __init__(self, inputs: int, outputs: int, weight: float | None, bias: float | None) -> None:
        super().__init__()
        start = torch.randn(outputs, inputs) if weight is None else torch.full((outputs, inputs), float(weight))
        self.weight = nn.Parameter(start)
        self.bias = None if bias is None else nn.Parameter(torch.full((outputs,), float(bias)))

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.linear(x, self.weight.abs().to(x.dtype), bias)
