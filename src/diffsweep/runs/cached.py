r"""The error of samples whose drawing reuses features between steps: their distance from samples without it.

.. math:: e = \sqrt{\frac{\sum_i \| x_i - \tilde x_i \|^2}{\sum_i \| x_i - \bar x \|^2}}

:math:`\tilde x_i` is drawn with the features of earlier steps, :math:`x_i` without them and from the same noise, and
:math:`\bar x` is the mean of the latter. Samples that have nothing to do with each other have
:math:`e = \sqrt 2`.
"""

from torch import Tensor

from diffsweep.models import DiffusionModel
from diffsweep.tasks.drawing import Drawn, drawn_in_batches


def measure_cache(model: DiffusionModel, drawn: Drawn, seed: int, batch_size: int) -> tuple[dict[str, float], int]:
    """Return what reusing features has changed in samples, by name, and the number of samples that were compared.

    They are drawn again without it, from the same noise, in batches of the same size; progress is shown.

    Args:
        model: the model with its ``feature_cache``.
        drawn: the first samples that it has drawn with it, with what was requested of them.
        seed: the seed of their noise.
        batch_size: the number of samples that were drawn at once.

    Returns:
        ``cache_error``, the relative distance; ``partial_evaluations``, the number of evaluations of each sample, on
        average, that computed a part of the network; and the number of samples.
    """
    count, cache = len(drawn.x), model.feature_cache
    model.feature_cache = None
    try:
        plain = drawn_in_batches(model, count, batch_size, lambda rows: model.start(rows, seed), drawn.request)
    finally:
        model.feature_cache = cache
    numbers = {"cache_error": relative_distance(drawn.x, plain.x), "partial_evaluations": drawn.partial}
    return numbers, count


def relative_distance(x: Tensor, of: Tensor) -> float:
    """Return the root mean square distance of samples from others, over the standard deviation of the latter.

    Args:
        x: samples, (N, ...).
        of: the others, like x.
    """
    x, of = x.double(), of.double()
    return float((x - of).square().sum().div((of - of.mean(0)).square().sum()).sqrt())
