r"""The prediction of x_0 and of eps at once, whose estimates of x_0 are combined.

.. math:: \hat x_0 = \frac{\sigma^2 \, \tilde x_0 + \alpha \, (x_t - \sigma \tilde\epsilon)}{\alpha^2 + \sigma^2}

is the network's own estimate :math:`\tilde x_0` where noise prevails, and the one that follows from its
:math:`\tilde\epsilon` where signal does (Salimans & Ho 2022, arXiv:2202.00512, section 4).
"""

from torch import Tensor

from diffsweep.diffusion.prediction import X0, Scale


class X0Eps(X0):
    r"""A prediction of both :math:`x_0` and :math:`\epsilon`, combined to one estimate of x_0 (arXiv:2202.00512).

    The network's output has twice the channels of x: :math:`\tilde x_0`, then :math:`\tilde\epsilon`. Their combination

    .. math:: \hat x_0 = \frac{\sigma^2 \, \tilde x_0 + \alpha \, (x_t - \sigma \tilde\epsilon)}{\alpha^2 + \sigma^2}

    is what losses compare with x_0, so they are in units of x_0.
    """

    outputs = 2

    def combined(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        x0, eps = output.chunk(2, dim=1)
        return (sigma**2 * x0 + alpha * (x_t - sigma * eps)) / (alpha**2 + sigma**2)
