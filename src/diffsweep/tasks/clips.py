"""The base class of tasks of clips, which draw x_0 given a measurement y = A x_0.

A takes frames of a clip, or means of its squares of pixels. Guidance keeps the samples consistent with y while the
sampler draws the rest (Ho et al. 2022, arXiv:2204.03458, section 3.1).
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from diffsweep.autoencoders import Autoencoder
from diffsweep.diffusion import Condition, Known
from diffsweep.guidance import Guidance
from diffsweep.samplers import Sampler
from diffsweep.tasks.base import Task
from diffsweep.tasks.sources import clips_missing_because

RATE = 8.0  # frames a second of clips in animations


class ClipTask(Task):
    """A task of ``sample.py`` that draws clips given a measurement of each, such as some of their frames.

    Guidance keeps the clips consistent with their measurement. So the task is refused for models of images, for
    guidance that has no use for a measurement, and for sampling that does not start from pure noise.

    Args:
        source: where the clips that are measured come from: ``data`` for held-out data of the model, or a path: see
            :func:`~diffsweep.tasks.sources.load_clips`. None if no clips are given.
    """

    def __init__(self, source: str | None) -> None:
        self.source = source

    def incompatible_because(self, space: Autoencoder, sampler: Sampler, guidances: Sequence[Guidance]) -> str | None:
        if len(space.shape) != 4:
            return "clips are needed, and this model makes images; use a run of model=video"
        if sampler.start < 1:
            return f"clips are drawn from pure noise, and sampler.start={sampler.start:g} is not; use sampler.start=1"
        if not any("measurement" in guidance.provides for guidance in guidances):
            free = any("null_condition" in guidance.requires for guidance in guidances)
            fix = "guidance=reconstruction_free" if free else "guidance=reconstruction, or replacement"
            return f"clips are drawn given a measurement, and this guidance has no use for one; use {fix}"
        return None if self.source is None else clips_missing_because(self.source)


def with_known(cond: Condition | None, known: Known | None) -> Condition | None:
    """Return the condition with ``known``, a measurement of its samples, added; unchanged if that is None.

    If only ``cond`` is None, the result is a condition that has the measurement alone.
    """
    return cond if known is None else replace(Condition() if cond is None else cond, known=known)


def distance(a: Tensor, b: Tensor) -> float:
    """Return the root mean square of a - b over all numbers of two tensors of the same shape."""
    return float((a - b).square().mean().sqrt())
