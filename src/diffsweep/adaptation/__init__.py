"""Adaptations: how a new run starts from the weights of a trained one, and which of them it trains."""

from diffsweep.adaptation.base import Adaptation, has_all_weights, own_settings
from diffsweep.adaptation.controlnet import ControlNet
from diffsweep.adaptation.fine_tuning import FineTuning

__all__ = ["Adaptation", "ControlNet", "FineTuning", "has_all_weights", "own_settings"]
