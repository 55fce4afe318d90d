r"""Spherical interpolation, :math:`\frac{\sin((1 - u) \theta)}{\sin\theta} a + \frac{\sin(u \theta)}{\sin\theta} b`.

The angle :math:`\theta` is that between a and b, and u runs from 0 to 1. Noise of D dimensions lies near a sphere of
radius :math:`\sqrt D`. A straight line between two points would pass far inside it, where no noise is; the arc stays
on it.
"""

import torch
from torch import Tensor


def slerp(a: Tensor, b: Tensor, u: Tensor) -> Tensor:
    r"""Return points on the arc between a and b (Shoemake 1985), by the weights of spherical interpolation.

    They are :math:`\sin((1 - u) \theta) / \sin\theta` for a and :math:`\sin(u \theta) / \sin\theta` for b, with
    :math:`\theta` the angle between the two. Where a and b are parallel the weights are 1 - u and u, a straight line.

    Args:
        a, b: the end points, (B, ...), a pair in each row.
        u: fractions of the arc in [0, 1], (K,).

    Returns:
        (K, B, ...): a at u = 0, b at u = 1.
    """
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()  # (B, D)
    norms = flat_a.norm(dim=1) * flat_b.norm(dim=1)
    cosine = (flat_a * flat_b).sum(1) / norms.clamp(min=torch.finfo(torch.float64).tiny)
    theta = torch.acos(cosine.clamp(-1, 1))[None]  # (1, B)
    u = u.to(theta)[:, None]  # (K, 1)
    sine = theta.sin()
    straight = sine < 1e-9
    weights = (((1 - u) * theta).sin() / sine, (u * theta).sin() / sine)
    of_a, of_b = (
        torch.where(straight, line, weight)[..., None] for line, weight in zip((1 - u, u), weights, strict=True)
    )
    return (of_a * flat_a + of_b * flat_b).to(a).unflatten(2, a.shape[1:])
