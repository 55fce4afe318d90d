"""Model families, each a LightningModule."""

from diffsweep.models.base import DiffusionModel
from diffsweep.models.ddpm import DDPM

__all__ = ["DDPM", "DiffusionModel"]
