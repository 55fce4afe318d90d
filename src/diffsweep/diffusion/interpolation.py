"""Interpolation between points of a sphere."""

import torch
from torch import Tensor


def slerp(a: Tensor, b: Tensor, u: Tensor) -> Tensor:
    r"""Spherical interpolation (Shoemake 1985): :math:`\frac{\sin((1 - u) \theta)}{\sin\theta} a + \frac{\sin(u \theta)}{\sin\theta} b`,
    :math:`\theta` the angle between a and b.

    Noise of D dimensions lies near a sphere of radius :math:`\sqrt D`; a straight line between two would pass far inside it, where no
    noise is. Where a and b are parallel it is the straight line.

    Args:
        a, b: (B, ...), a pair each row.
        u: shares of the way in [0, 1], (K,).

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
