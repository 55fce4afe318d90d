"""Predictor-corrector sampling of the reverse SDE."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from diffsweep.diffusion import Noise, Step
from diffsweep.samplers.base import State, euler_step
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.samplers.langevin import LangevinSampler
from diffsweep.samplers.options import one_of


@dataclass(kw_only=True, eq=False)
class PredictorCorrector(LangevinSampler):
    r"""A predictor's step from level to level, with Langevin steps at each (Song et al. 2021, arXiv:2011.13456, alg. 2 and 3, app. G).

    At t first the corrector, ``corrections`` times
    :math:`x \leftarrow x - \frac{\delta}{2 \sigma_t} \epsilon + \sqrt\delta z, \delta = (2 \, \mathrm{snr} \, \sigma_t)^2`,
    then the predictor, with x_0 and eps of the corrected x:

    .. math:: x_s = \alpha_s x_0 + \alpha_{ts} \frac{\sigma_s^2}{\sigma_t} \epsilon + \sqrt v z,

    the posterior's mean; v is :math:`v_{ts}`, the forward step's variance, for ``reverse_diffusion`` and the posterior's for ``ancestral``. The step to
    clean data gives x_0, without noise. ``corrections`` + 1 network calls a step.

    Differences from score_sde's code, kept on purpose. As there the corrector comes first; the paper's algorithms put it last. Its mean for VP,
    :math:`(2 - \sqrt{1 - \beta}) x + \beta \, \mathrm{score}`, is this one to first order in beta; for VE they are equal. Its Langevin step takes
    norms over the batch and for VP one factor :math:`1 - \beta` more: see :class:`~diffsweep.samplers.langevin.LangevinSampler`.

    Args:
        predictor: ``reverse_diffusion`` or ``ancestral``.
        snr: the signal-to-noise ratio of a Langevin step, above 0 and below 1: 0.16 for VE, 0.01 for VP in the paper.
        corrections: Langevin steps at each level, at least 1; without them it is :class:`~diffsweep.samplers.Ancestral`.
    """

    other_draws = 1  # the predictor's
    steps: int = 250
    predictor: Literal["reverse_diffusion", "ancestral"] = "reverse_diffusion"
    snr: float = 0.16
    corrections: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("predictor", self.predictor, ("reverse_diffusion", "ancestral"))

    def advance(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], state: State | None, noise: Noise
    ) -> tuple[Tensor, State]:
        denoised, at_t, at_s = denoise(x, step.at_t), step.at_t, step.at_s
        x = self.corrected(denoise, x, at_t, denoised, noise)
        x = euler_step(denoise(x, at_t), at_s.alpha, step.alpha_ts * at_s.sigma**2 / at_t.sigma)
        if at_s.sigma > 0:
            variance = step.var_ts if self.predictor == "reverse_diffusion" else step.var_post
            x.add_(self.drawn(noise, 0).like(x), alpha=math.sqrt(variance))
        return x, State(denoised)
