r"""Conditioning on the class as a token: c is a row e_y of a trained table of K rows, which the network attends to.

With one token h the cross-attention of a network has no choice, :math:`\mathrm{softmax}(q \cdot k(h)) = 1`: each place
of a feature map adds the same vector v(h).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from diffsweep.conditioning.class_label import ClassLabel
from diffsweep.diffusion import Condition

if TYPE_CHECKING:  # it imports Lightning, which takes seconds
    from diffsweep.datasets import Batch


class ClassToken(ClassLabel):
    """A conditioning on the class of a sample by one token, ``tokens`` of the condition, (B, 1, D).

    The tokens are the rows of a table (K, D) that is trained with the network, as in the class-conditional latent
    diffusion models of Rombach et al. 2021 (arXiv:2112.10752). The network needs cross-attention; its null token stands
    for no class.

    Args:
        num_classes: see :class:`ClassLabel`.
        context_dim: D, the width of the token; backbones take their size from here.
        class_names: see :class:`ClassLabel`.
        labels: see :class:`ClassLabel`.
        negative: see :class:`ClassLabel`.
        dropout: see :class:`ClassLabel`.

    Raises:
        ValueError: as :class:`ClassLabel`, or ``context_dim`` is below 1.
    """

    def __init__(
        self,
        num_classes: int | None,
        context_dim: int = 512,
        class_names: Sequence[str] | None = None,
        labels: Sequence[int | str] | None = None,
        negative: int | str | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_classes, class_names, labels, negative, dropout)
        if context_dim < 1:
            raise ValueError(f"conditioning.context_dim must be at least 1, not {context_dim}")
        self.sizes = {"context_dim": context_dim}
        self.classes = nn.Embedding(self.num_classes, context_dim)

    def condition(self, batch: Batch) -> Condition:
        return Condition(tokens=self.classes(batch["label"])[:, None])
