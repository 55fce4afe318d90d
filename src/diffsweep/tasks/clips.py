"""What tasks of clips share: a measurement of each clip, which guidance holds while a walk draws the rest (Ho et al. 2022,
arXiv:2204.03458, section 3.1)."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from diffsweep.autoencoders import Autoencoder
from diffsweep.diffusion import Condition, Known
from diffsweep.guidance import Guidance
from diffsweep.samplers import Sampler
from diffsweep.tasks.base import Task
from diffsweep.tasks.sources import clips_missing_because

RATE = 8.0  # frames a second of a model's clips, in pictures


class ClipTask(Task):
    """A task whose walks draw clips of which something is known, for guidance to hold.

    Args:
        source: None, or clips: see :func:`~diffsweep.tasks.sources.load_clips`.
    """

    def __init__(self, source: str | None) -> None:
        self.source = source

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        if len(space.shape) != 4:
            return "clips are needed, and this model makes images; use a run of model=video"
        if sampler.start < 1:
            return f"clips are drawn from noise alone, and a walk from sampler.start={sampler.start:g} is not; use sampler.start=1"
        if not any("measurement" in guidance.provides for guidance in guidances):
            free = any("null_condition" in guidance.requires for guidance in guidances)
            fix = "guidance=reconstruction_free" if free else "guidance=reconstruction, or replacement"
            return f"something is known of each clip, and this guidance does not hold it; use {fix}"
        return None if self.source is None else clips_missing_because(self.source)


def with_known(cond: Condition | None, known: Known | None) -> Condition | None:
    """Return the condition with what is known of its samples, where anything is."""
    return cond if known is None else replace(Condition() if cond is None else cond, known=known)


def distance(a: Tensor, b: Tensor) -> float:
    """Return the root mean square of a - b."""
    return float((a - b).square().mean().sqrt())
