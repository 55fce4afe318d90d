"""Learning-rate schedules over optimizer steps: a warm-up, then constant or a cosine decay."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: Optimizer, warmup_steps: int = 0) -> LambdaLR:
    """Rises linearly over ``warmup_steps``, then stays. Does not know the run's length, so a run can be prolonged."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps)))


def cosine(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0) -> LambdaLR:
    """Rises linearly over ``warmup_steps``, then falls to 0 at ``total_steps`` along a half cosine (arXiv:1608.03983)."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)
