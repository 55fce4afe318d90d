r"""DEIS: an exponential multistep solver that interpolates the last eps.

.. math:: x_s = \alpha_s \Big(\frac{x_t}{\alpha_t} + \sum_k \epsilon_k \int_{r_t}^{r_s} \ell_k(\log r) \, dr\Big),
    \quad r = \sigma / \alpha,

with the eps :math:`\epsilon_k` of this step and of the steps before, and the Lagrange polynomials :math:`\ell_k`
through their :math:`\log r`. It follows from the probability-flow ODE :math:`d(x / \alpha) = \epsilon \, dr`.
"""

from dataclasses import dataclass

from diffsweep.samplers.exponential import InEps, MultistepSampler


@dataclass(kw_only=True, eq=False)
class DEIS(InEps, MultistepSampler):
    r"""Sample with multistep DEIS (Zhang and Chen 2022, arXiv:2204.13902, eq. 15).

    A step from t to s < t integrates the polynomial through the last eps exactly:

    .. math:: x_s = \alpha_s \Big(\frac{x_t}{\alpha_t} + \sum_k
        \epsilon_k \int_{\rho_t}^{\rho_s} \ell_k(\log \rho) \, d\rho\Big), \quad \rho = \sigma / \alpha,

    with the denoiser's eps at t and at the starts of the steps before, :math:`\epsilon_k`, and the Lagrange polynomials
    :math:`\ell_k` in :math:`\log \rho`, the paper's and diffusers' variant "logrho". The paper also interpolates in t
    or in rho. Order 1 is DDIM. A step takes one network call.

    Intended differences: the public codes start at lower orders, and diffusers also ends at lower orders below 15
    steps. This class starts with single steps (``warm_start``) and keeps its order until the step to clean data, which
    is DDIM's.

    Args:
        order: the number of eps that are interpolated, 1, 2 or 3.
        warm_start: how the first order - 1 steps are taken. ``singlestep``: by DPM-Solver-2 or 3, which adds 1 network
            call in all for order 2 and 4 for order 3; ``euler``: at the orders 1, ..., order - 1, with no further
            network call.

    Raises:
        ValueError: an option has another value.
    """
