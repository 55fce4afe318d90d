r"""Uniform dequantisation of training samples: discrete values become continuous ones, each within its own bin.

A value :math:`x_0 = 2 v / (L - 1) - 1` of L levels, v = 0, ..., L - 1, becomes

.. math:: x = x_0 + \frac{2 u - 1}{L - 1} = \frac{L}{L - 1} \left(2 \, \frac{v + u}{L} - 1\right),
    \qquad u \sim U(0, 1),

which is uniform in the bin of v with the mean x_0, as the likelihood of the ODE dequantises
(:func:`~diffsweep.diffusion.likelihood.dequantised`).
"""

from typing import Any

import torch
from torch import Tensor

from diffsweep.datasets.samples import Batch, Samples
from diffsweep.diffusion import Noise
from diffsweep.diffusion.likelihood import dequantised


class Dequantised(Samples):
    r"""A table of samples whose ``x`` is dequantised at each training visit, and not otherwise.

    It is wanted where the likelihood of a density is measured or trained. A density of data with L levels has no upper
    bound: it can grow without end at the levels. Of dequantised data, the log-density is at most the log-probability of
    the levels, as densities per bin (Theis et al. 2016, arXiv:1511.01844, section 3.1). For samples that are only
    looked at it changes little, since u moves a value by less than half a level.

    The noise is drawn from (seed, position) of a visit, so that a resumed run draws the same. Values leave [-1, 1] by
    up to 1 / (L - 1).

    Args:
        samples: the samples, with values of equally spaced levels on [-1, 1].
        levels: L.
    """

    def __init__(self, samples: Samples, levels: int) -> None:
        self.samples, self.count_of_levels = samples, levels

    def __len__(self) -> int:
        return len(self.samples)

    def part(self, name: str) -> Any:
        return self.samples.part(name)

    def rows(self, index: Tensor) -> Batch:
        return self.samples.rows(index)

    def visited(self, index: Tensor, noise: Noise) -> Batch:
        batch = self.samples.visited(index, noise)
        return {**batch, "x": dequantised(batch["x"], self.count_of_levels, noise)}

    def annotations(self, index: Tensor) -> Batch:
        return self.samples.annotations(index)

    @property
    def stored_bytes(self) -> int | None:
        """Return the bytes of the given samples: they are dequantised on their device."""
        return self.samples.stored_bytes

    def to(self, device: torch.device) -> Samples:
        return Dequantised(self.samples.to(device), self.count_of_levels)
