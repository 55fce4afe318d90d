r"""Learning-rate schedules over optimizer steps k, with W warm-up steps and K steps in all.

The factor of the learning rate is (k + 1) / W in warm-up; then 1, or :math:`\frac12 (1 + \cos(\pi (k - W) / (K - W)))`.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: Optimizer, warmup_steps: int = 0) -> LambdaLR:
    """Return a schedule of learning rates that rise linearly over ``warmup_steps`` and then are constant.

    In step k = 0, 1, ... of the warm-up the optimizer's rates are multiplied by (k + 1) / ``warmup_steps``. The
    schedule does not depend on the length of the run, so a run can be prolonged.
    """
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps)))


def cosine(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0) -> LambdaLR:
    r"""Return a schedule of learning rates that rise linearly over ``warmup_steps``, then fall to 0 at ``total_steps``.

    In step k = 0, 1, ... of the W warm-up steps the optimizer's rates are multiplied by (k + 1) / W, and then, with K
    ``total_steps``, by :math:`\frac12 (1 + \cos(\pi (k - W) / (K - W)))`, half a cosine (arXiv:1608.03983). From step K
    on they are 0.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)
