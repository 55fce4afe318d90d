"""Variational diffusion models."""

from torch import Tensor

from diffsweep.models.base import Losses
from diffsweep.models.diffusion import DiffusionModel
from diffsweep.schedules import Learned, minimise_variance


class VDM(DiffusionModel):
    """The family of Kingma et al. 2021 (arXiv:2107.00630): the bound in continuous time, with a learned schedule.

    Its own step: the endpoints of the schedule minimise the loss, its shape the variance of the loss, in one backward pass.
    """

    def losses(self, batch: dict[str, Tensor]) -> Losses:
        schedule = self.denoiser.schedule
        if not isinstance(schedule, Learned):
            return super().losses(batch)
        with schedule.shape_values() as shape_values:
            found = super().losses(batch)
        minimise_variance(shape_values, found.losses)
        return found
