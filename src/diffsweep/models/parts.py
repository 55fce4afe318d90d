"""The parts of a model, as they are known before its weights are loaded."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from diffsweep.conditioning import Conditioning
from diffsweep.datasets import ImageData
from diffsweep.guidance import Guidance
from diffsweep.models.cascade import LowerStage


class ModelParts(NamedTuple):
    """The parts of a model by which tasks decide whether they can be done with it.

    Attributes:
        backbone: the network, which may be on the meta device.
        conditioning: what the network is conditioned on.
        guidances: the guidances around the denoiser, from the outermost to the innermost; empty for none.
        data: the data of the model, of which only the sizes may be at hand.
        cascade: the lower stage of a cascade; None for a model alone.
    """

    backbone: nn.Module
    conditioning: Conditioning
    guidances: Sequence[Guidance]
    data: ImageData
    cascade: LowerStage | None
