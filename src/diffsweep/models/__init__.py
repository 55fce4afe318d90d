"""Model families, each a LightningModule: what a step of training, validation and sampling computes."""

from diffsweep.models.autoencoder import AutoencoderModel
from diffsweep.models.base import Model, SelfMeasured
from diffsweep.models.cascade import CascadeModel, LowerStage
from diffsweep.models.classifier import NoisyClassifier
from diffsweep.models.consistency import ConsistencyModel
from diffsweep.models.diffusion import DiffusionModel
from diffsweep.models.distilled import DistilledModel, GuidanceDistillation, Student
from diffsweep.models.parts import ModelParts
from diffsweep.models.progressive import ProgressiveDistillation
from diffsweep.models.reflow import Reflow
from diffsweep.models.teacher import Teacher
from diffsweep.models.timed import Losses, TimedModel
from diffsweep.models.vdm import VDM
from diffsweep.models.video import VideoModel

__all__ = [
    "VDM",
    "AutoencoderModel",
    "CascadeModel",
    "ConsistencyModel",
    "DiffusionModel",
    "DistilledModel",
    "GuidanceDistillation",
    "Losses",
    "LowerStage",
    "Model",
    "ModelParts",
    "NoisyClassifier",
    "ProgressiveDistillation",
    "Reflow",
    "SelfMeasured",
    "Student",
    "Teacher",
    "TimedModel",
    "VideoModel",
]
