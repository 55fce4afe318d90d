"""How good samples are."""

from diffsweep.metrics.digits_classifier import DigitsClassifier, load_digits_classifier
from diffsweep.metrics.generation import GenerationMetrics, identify

__all__ = ["DigitsClassifier", "GenerationMetrics", "identify", "load_digits_classifier"]
