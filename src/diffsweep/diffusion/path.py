r"""The path of a sampler: steps down in t, and between them steps back up, by the process itself.

A step back from s up to t > s draws :math:`x_t` from :math:`q(x_t | x_s)`,

.. math:: x_t = \alpha_{ts} x_s + \sqrt{v_{ts}} \, z, \qquad v_{ts} = v_{tm} + \alpha_{tm}^2 v_{ms}
    \text{ for } s < m < t,

with standard normal z. The second equation gives the variance of several steps together, as a sum of positive terms.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from diffsweep.diffusion.noise import Noise, Stream
from diffsweep.diffusion.process import Step


class Move(NamedTuple):
    """A move of a sampler along its path: a step from t down to s < t, or one from s back up to t.

    Attributes:
        step: the noise levels at t and at s, with the variances between them.
        up: whether the move goes from s up to t, by noise alone; otherwise the sampler takes it with the denoiser.
    """

    step: Step[float]
    up: bool = False


def joined(steps: Sequence[Step[float]]) -> Step[float]:
    """Return the step from the beginning of the first to the end of the last of some steps, each after the other.

    Args:
        steps: at least one step; each begins at the noise level at which the one before it ends.
    """
    first, last = steps[0], steps[-1]
    var_ts = first.var_ts + sum((first.at_t.alpha / step.at_t.alpha) ** 2 * step.var_ts for step in steps[1:])
    return Step(first.at_t, last.at_s, var_ts, var_ts * last.at_s.sigma**2 / first.at_t.sigma**2)


def raised(x: Tensor, step: Step[float], noise: Noise) -> Tensor:
    r"""Return x_t drawn from :math:`q(x_t | x_s)`, the end of a step back up in t, like x.

    Args:
        x: samples at s, (B, ...).
        step: the step between t and s < t.
        noise: the source of the noise z, of which the stream ``RAISE`` is read.
    """
    return (x * step.alpha_ts).add_(noise.like(x, Stream.RAISE), alpha=step.var_ts**0.5)
