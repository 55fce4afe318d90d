r"""Learning-rate schedules over optimizer steps k, with W warm-up steps and K steps in all.

The factor of the learning rate is (k + 1) / W in warm-up; then 1, or :math:`\frac12 (1 + \cos(\pi (k - W) / (K - W)))`.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: Optimizer, warmup_steps: int = 0) -> LambdaLR:
    """Return a schedule that rises linearly over ``warmup_steps`` and then stays constant.

    It does not depend on the length of the run, so a run can be prolonged.
    """
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps)))


def cosine(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0) -> LambdaLR:
    """Return a schedule that rises linearly over ``warmup_steps`` and then falls to 0 at ``total_steps``.

    It falls along half a cosine (arXiv:1608.03983).
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)
