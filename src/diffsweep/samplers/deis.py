"""DEIS: exponential Adams-Bashforth in eps."""

from dataclasses import dataclass

from diffsweep.samplers.exponential import InEps, MultistepSampler


@dataclass(kw_only=True, eq=False)
class DEIS(InEps, MultistepSampler):
    r"""DEIS, multistep (Zhang and Chen 2022, arXiv:2204.13902, eq. 15): the integral of the eps of the last steps, interpolated.

    :math:`x_s = \alpha_s (\frac{x_t}{\alpha_t} + \sum_k \epsilon_k \int_{\rho_t}^{\rho_s} \ell_k(\log \rho) \, d\rho)`, with
    :math:`\rho = \sigma / \alpha` and :math:`\ell_k` the Lagrange polynomials of the last eps in :math:`\log \rho`, the "logrho" that diffusers has too. The
    paper interpolates in t or in rho as well. Order 1 is DDIM. One network call a step.

    Differences kept on purpose: the public codes start at lower orders and diffusers ends so too, below 15 steps; ours starts
    with single steps (``warm_start``) and keeps its order until DDIM's step to clean data.

    Args:
        order: how many eps are interpolated, 1, 2 or 3.
        warm_start: the first order - 1 steps are ``singlestep``, DPM-Solver-2 or 3, so a walk of order 2 makes 1 network call more
            than it has steps and one of order 3 makes 4 more; or ``euler``: at the orders 1, ..., order - 1, with none more.
    """
