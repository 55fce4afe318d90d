"""How good samples are, and how likely data are."""

from diffsweep.metrics.digits_classifier import DigitsClassifier, load_digits_classifier
from diffsweep.metrics.generation import GenerationMetrics, identify
from diffsweep.metrics.likelihood import BoundLikelihood, Likelihood, ODELikelihood

__all__ = [
    "BoundLikelihood",
    "DigitsClassifier",
    "GenerationMetrics",
    "Likelihood",
    "ODELikelihood",
    "identify",
    "load_digits_classifier",
]
