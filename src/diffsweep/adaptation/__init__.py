"""Adaptations: how a new run starts from the weights of a trained one, and which of them it trains."""

from diffsweep.adaptation.base import Adaptation, has_all_weights, own_settings
from diffsweep.adaptation.controlnet import ControlNet
from diffsweep.adaptation.fine_tuning import FineTuning
from diffsweep.adaptation.lora import Lora
from diffsweep.adaptation.low_rank import Adapter, LowRank, merge

__all__ = [
    "Adaptation",
    "Adapter",
    "ControlNet",
    "FineTuning",
    "Lora",
    "LowRank",
    "has_all_weights",
    "merge",
    "own_settings",
]
