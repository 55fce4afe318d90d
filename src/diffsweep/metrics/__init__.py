"""Metrics: distances of generated samples from real data, reconstruction errors, and likelihoods of data."""

from diffsweep.metrics.classifier_features import ClassifierFeatures
from diffsweep.metrics.clips import ClipMetrics
from diffsweep.metrics.digits_classifier import DigitsClassifier, load_digits_classifier
from diffsweep.metrics.extraction import identify
from diffsweep.metrics.frames import DigitFrames, FrameFeatures
from diffsweep.metrics.frechet import frechet_distance
from diffsweep.metrics.generation import GenerationMetrics
from diffsweep.metrics.i3d import PublicI3D
from diffsweep.metrics.inception import PublicInception
from diffsweep.metrics.likelihood import BoundLikelihood, Likelihood, ODELikelihood
from diffsweep.metrics.motion import MotionNumbers, Track, digit_crops, motion, nearest_path, track
from diffsweep.metrics.moving_digits_classifier import (
    MovingDigitsClassifier,
    kind_of_motion,
    load_moving_digits_classifier,
)
from diffsweep.metrics.neighbours import Manifold, manifold, precision_recall
from diffsweep.metrics.pretrained import CLIPFeatures, CLIPFolder, DINOv2Features, DINOv2Folder
from diffsweep.metrics.reconstruction import psnr, ssim

__all__ = [
    "BoundLikelihood",
    "CLIPFeatures",
    "CLIPFolder",
    "ClassifierFeatures",
    "ClipMetrics",
    "DINOv2Features",
    "DINOv2Folder",
    "DigitFrames",
    "DigitsClassifier",
    "FrameFeatures",
    "GenerationMetrics",
    "Likelihood",
    "Manifold",
    "MotionNumbers",
    "MovingDigitsClassifier",
    "ODELikelihood",
    "PublicI3D",
    "PublicInception",
    "Track",
    "digit_crops",
    "frechet_distance",
    "identify",
    "kind_of_motion",
    "load_digits_classifier",
    "load_moving_digits_classifier",
    "manifold",
    "motion",
    "nearest_path",
    "precision_recall",
    "psnr",
    "ssim",
    "track",
]
