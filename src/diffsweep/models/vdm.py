r"""Variational diffusion models, which minimise the variational bound in continuous time and learn the noise schedule.

With the log-SNR :math:`\lambda(t)` the loss at t is (arXiv:2107.00630, eq. 17), beside the terms of the two ends,

.. math:: L(t) = -\tfrac12 \lambda'(t) \, \lVert \epsilon - \hat\epsilon(x_t, t) \rVert^2

Its mean over t depends on the endpoints of :math:`\lambda` alone; its variance depends on the shape in between.
"""

from torch import Tensor

from diffsweep.models.diffusion import DiffusionModel
from diffsweep.models.timed import Losses
from diffsweep.schedules import Learned, minimise_variance


class VDM(DiffusionModel):
    """A variational diffusion model with a learned noise schedule (Kingma et al. 2021, arXiv:2107.00630).

    A training step differs from that of :class:`DiffusionModel` by the gradients of a learned schedule: those of the
    two endpoints of its log-SNR minimise the loss L, and those of its shape in between minimise E[L^2], and so the
    variance of L, in the same backward pass. With any other schedule the step is that of :class:`DiffusionModel`. The
    constructor has the arguments of :class:`DiffusionModel`.
    """

    def losses(self, batch: dict[str, Tensor]) -> Losses:
        schedule = self.denoiser.schedule
        if not isinstance(schedule, Learned):
            return super().losses(batch)
        with schedule.shape_values() as shape_values:
            found = super().losses(batch)
        minimise_variance(shape_values, found.losses)
        return found
