"""Model families, each a LightningModule."""

from diffsweep.models.base import DiffusionModel
from diffsweep.models.ddpm import DDPM
from diffsweep.models.vdm import VDM

__all__ = ["DDPM", "VDM", "DiffusionModel"]
