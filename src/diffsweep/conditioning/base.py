"""What conditioning is: a batch to the one Condition that networks and guidance are told."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from diffsweep.capabilities import Part
from diffsweep.datasets import Batch, Samples
from diffsweep.diffusion import Condition, Noise, Stream


class Conditioning(nn.Module, Part, ABC):
    """``cond = conditioning(batch)``. Dropout to the null condition happens here and nowhere else.

    A batch comes from the data, or is a *request*: what is asked of samples, made by :meth:`request`.

    Args:
        dropout: the share of training samples whose condition is not told, so that guidance has a null condition.

    Attributes:
        sizes: of the parts of the Condition, under the names that backbones accept them by:
            ``num_classes``, ``vector_dim``, ``num_scalars``, ``context_dim``, ``image_channels``.
        negative: what is asked for in place of the null condition, None for nothing.
        needs_pixels: whether it reads the condition off the images themselves.
    """

    sizes: Mapping[str, int]
    negative: Any = None
    requires_pixels = False

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout <= 1:
            raise ValueError(f"conditioning.dropout lies in [0, 1], not {dropout}")
        self.dropout = dropout

    @property
    def provides(self) -> frozenset[str]:  # type: ignore[override]
        """A condition of its parts; and a null condition, where some are dropped in training or something is asked for in its place."""
        null = self.dropout > 0 or self.negative is not None
        return frozenset({*self.sizes, "condition", *(["null_condition"] if null else [])} if self.sizes else ())

    @abstractmethod
    def condition(self, batch: Batch) -> Condition | None:
        """The conditions of a batch, all of them told."""

    @abstractmethod
    def request(self, indices: Tensor, samples: Samples | None) -> Batch:
        """What is asked of the samples to draw, of given indices, (B,): a batch without ``x``. ``negative`` in it, a batch too, is what
        guidance leads away from.

        Args:
            indices: int64, (B,); sample i is asked for the same in any batch.
            samples: held-out data, for conditions that are taken from data; None where there is none at hand.
        """

    def forward(self, batch: Batch, noise: Noise | None = None) -> Condition | None:
        """The conditions of a batch; in training, with the noise of its samples, some of them dropped."""
        cond = self.condition(batch)
        if cond is None:
            return None
        if "negative" in batch:
            cond = replace(cond, negative=self.condition(batch["negative"]))
        if self.training and self.dropout > 0 and noise is not None:
            cond = cond.null(noise.uniform(stream=Stream.CONDITION) < self.dropout)
        return cond
