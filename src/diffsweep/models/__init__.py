"""Model families, each a LightningModule: what a step of training, validation and sampling computes."""

from diffsweep.models.autoencoder import AutoencoderModel
from diffsweep.models.base import Model, SelfMeasured
from diffsweep.models.cascade import CascadeModel, LowerStage
from diffsweep.models.classifier import NoisyClassifier
from diffsweep.models.compared_files import ComparedFiles
from diffsweep.models.comparisons import Comparisons, ScoredSamples
from diffsweep.models.consistency import ConsistencyModel
from diffsweep.models.diffusion import DiffusionModel
from diffsweep.models.distilled import DistilledModel, GuidanceDistillation, Student
from diffsweep.models.parts import ModelParts
from diffsweep.models.preference import PreferenceModel
from diffsweep.models.progressive import ProgressiveDistillation
from diffsweep.models.reflow import Reflow
from diffsweep.models.scorers import Attribute, ClassProbability, Scorer
from diffsweep.models.teacher import Teacher
from diffsweep.models.timed import Losses, TimedModel
from diffsweep.models.vdm import VDM
from diffsweep.models.video import VideoModel

__all__ = [
    "VDM",
    "Attribute",
    "AutoencoderModel",
    "CascadeModel",
    "ClassProbability",
    "ComparedFiles",
    "Comparisons",
    "ConsistencyModel",
    "DiffusionModel",
    "DistilledModel",
    "GuidanceDistillation",
    "Losses",
    "LowerStage",
    "Model",
    "ModelParts",
    "NoisyClassifier",
    "PreferenceModel",
    "ProgressiveDistillation",
    "Reflow",
    "ScoredSamples",
    "Scorer",
    "SelfMeasured",
    "Student",
    "Teacher",
    "TimedModel",
    "VideoModel",
]
