r"""Averages of weights with power-function profiles, and the least squares that turns some of them into others.

The average of the weights :math:`\theta(\tau)` at time t with exponent :math:`\gamma > -1` is

.. math:: \hat\theta_\gamma(t) = \int_0^t p_\gamma(\tau; t) \, \theta(\tau) \, d\tau,
    \qquad p_\gamma(\tau; t) = \frac{\gamma + 1}{t^{\gamma + 1}} \tau^\gamma.

Its relative width :math:`\sigma_{rel}` is the standard deviation of the density p over t, so that it keeps its shape
while training goes on: :math:`\sigma_{rel} = (\gamma + 1)^{1/2} (\gamma + 2)^{-1} (\gamma + 3)^{-1/2}`. Time is counted
in optimizer steps. All is by Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models",
section 3.1 and appendix C.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WIDEST = 12**-0.5  # the relative width of the plain mean, gamma = 0
ROUNDING = 1e-6  # relative errors that are rounding, the root of a difference of numbers in float64


class Profile(NamedTuple):
    """The profile of an average.

    Attributes:
        step: t, the optimizer step at which the average is taken, above 0.
        width: its relative width.
    """

    step: float
    width: float


def gamma_of(width: float) -> float:
    r"""Return the exponent :math:`\gamma \ge 0` of the profile of a relative width.

    It is the largest root of :math:`\gamma^3 + 7 \gamma^2 + (16 - \sigma^{-2}) \gamma + 12 - \sigma^{-2} = 0`.

    Args:
        width: :math:`\sigma_{rel}`, above 0 and at most :math:`12^{-1/2} = 0.2887`.

    Raises:
        ValueError: the width is outside of this interval.
    """
    if not 0 < width <= WIDEST:
        raise ValueError(f"a relative width must be above 0 and at most 0.2886, not {width:g}")
    inverse = width**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return max(0.0, float(roots.real.max()))


def width_of(gamma: float) -> float:
    r"""Return the relative width of the profile of an exponent :math:`\gamma > -1`."""
    return float((gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5))


def decay(gamma: float, before: int, step: int) -> float:
    r"""Return the factor of the old average in its update from one step to a later one.

    The weights at the later step stand for all since the former one: :math:`\beta = (s / t)^{\gamma + 1}` from step s
    to t, which is :math:`(1 - 1/t)^{\gamma + 1}` if each step is averaged.

    Args:
        gamma: the exponent.
        before: s, the step of the last update; 0 before the first one.
        step: t, above s.
    """
    return float((before / step) ** (gamma + 1))


def inner_products(first: Sequence[Profile], second: Sequence[Profile]) -> np.ndarray:
    r"""Return the inner products of profiles, an array (len(first), len(second)) in float64.

    That of two profiles up to the steps a and b is the integral of their product up to the smaller one:

    .. math:: \int_0^{\min(a, b)} p_\alpha(\tau; a) \, p_\beta(\tau; b) \, d\tau
        = \frac{(\alpha + 1)(\beta + 1)}{(\alpha + \beta + 1) \max(a, b)}
          \begin{cases} (a / b)^\beta & a < b \\ (b / a)^\alpha & a \ge b \end{cases}
    """
    a, alpha = (values[:, None] for values in _arrays(first))
    b, beta = (values[None, :] for values in _arrays(second))
    decayed = np.where(a < b, np.minimum(a / b, 1) ** beta, np.minimum(b / a, 1) ** alpha)
    return (alpha + 1) * (beta + 1) / ((alpha + beta + 1) * np.maximum(a, b)) * decayed


def least_squares(kept: Sequence[Profile], wanted: Profile) -> tuple[np.ndarray, float]:
    r"""Return the factors with which a sum of profiles is closest to another one, and the error that is left.

    The factors x minimise :math:`\lVert \sum_i x_i p_i - p \rVert`, the norm of the function. Those below 1e-9 of the
    largest are 0, so that a profile that is one of the others is that one alone.

    Args:
        kept: the profiles :math:`p_i`, no two of them equal.
        wanted: the profile p.

    Returns:
        the factors (len(kept),), and the relative error :math:`\lVert \sum_i x_i p_i - p \rVert / \lVert p \rVert`, 0
        where it is below 1e-6.
    """
    products, target = inner_products(kept, kept), inner_products(kept, [wanted])[:, 0]
    size = np.sqrt(np.diag(products))  # profiles of norm 1 are better conditioned
    factors = np.linalg.lstsq(products / np.outer(size, size), target / size, rcond=None)[0] / size
    factors[np.abs(factors) < 1e-9 * np.abs(factors).max()] = 0
    norm = inner_products([wanted], [wanted])[0, 0]
    squared = norm - 2 * factors @ target + factors @ products @ factors
    relative = float(np.sqrt(max(0.0, squared) / norm))
    return factors, relative if relative > ROUNDING else 0.0


def _arrays(profiles: Sequence[Profile]) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and the exponents of profiles."""
    steps = np.array([profile.step for profile in profiles], dtype=np.float64)
    return steps, np.array([gamma_of(profile.width) for profile in profiles], dtype=np.float64)
