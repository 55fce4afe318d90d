r"""Find whether generated images are copies of training images, by distances in pixels.

.. math:: \mathrm{copy\_ratio} = \mathrm{median}_i \min_j |x_i - t_j| \; / \; \mathrm{median}_i \min_j |v_i - t_j|

of generated images x, training images t and held-out images v: 0 for copies, about 1 for images as new as held-out
ones.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from diffsweep.datasets import ImageData, Samples
from diffsweep.metrics.neighbours import nearest_distances
from diffsweep.metrics.references import choice

FEWEST, MOST = 50, 1000  # images whose nearest training image is searched for
MULTIPLICATIONS = 10**12  # the cost allowed for this search between these numbers: minutes on one core


def searched(count: int, data: ImageData) -> Tensor:
    """Return which of ``count`` images their nearest training image is searched for, sorted: a random choice of them.

    They are at most a thousand, and fewer, but at least fifty, where the training set is so large that the search for
    more would take hours.

    Args:
        count: the number of images.
        data: the dataset.
    """
    cost = len(data.split("train")) * math.prod(data.shape)
    return choice(count, min(MOST, max(FEWEST, MULTIPLICATIONS // cost)))


def copy_ratio(samples: Tensor, data: ImageData, batches: Callable[[Samples], Iterable[Tensor]]) -> float:
    """Return the median distance of samples from their nearest training images, divided by that of held-out images.

    A ratio well below 1 is a sign that samples are copies of training images.

    Args:
        samples: the generated images or clips that :func:`searched` chooses, (N, ...) in [-1, 1], which are rounded to
            the levels of the data first.
        data: the dataset.
        batches: returns the images of samples in order, in batches.
    """
    train, held_out = data.split("train"), data.split("val")
    real = held_out[searched(len(held_out), data)]["x"]
    levels = (data.levels - 1) / 2
    rounded = ((samples.clamp(-1, 1) + 1) * levels).round() / levels - 1
    distances = nearest_distances(torch.cat([rounded, real]), batches(train))
    from_fake, from_real = distances.split([len(rounded), len(real)])
    return float(from_fake.median() / from_real.median())
