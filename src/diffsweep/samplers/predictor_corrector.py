"""Predictor-corrector sampling of the reverse SDE."""

import math
from typing import Literal

from torch import Tensor

from diffsweep.diffusion import Condition, Denoiser, Noise, Step
from diffsweep.samplers.base import Clip, Spacing, State, euler_step
from diffsweep.samplers.exponential import one_of
from diffsweep.samplers.langevin import LangevinSampler

Predictor = Literal["reverse_diffusion", "ancestral"]


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
        steps, spacing, start, stop, clip, temperature: see :class:`~diffsweep.samplers.base.Sampler`.
    """

    other_draws = 1  # the predictor's

    def __init__(
        self,
        predictor: Predictor = "reverse_diffusion",
        snr: float = 0.16,
        corrections: int = 1,
        steps: int = 250,
        spacing: Spacing = "uniform",
        start: float = 1.0,
        stop: float = 0.0,
        clip: Clip = "static",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(snr, corrections, steps, spacing, start, stop, clip, temperature)
        self.predictor = one_of("predictor", predictor, ("reverse_diffusion", "ancestral"))

    def advance(
        self,
        denoiser: Denoiser,
        x: Tensor,
        t: Tensor,
        pair: Step[float],
        state: State | None,
        noise: Noise,
        cond: Condition | None,
    ) -> tuple[Tensor, State]:
        denoised = self.denoise(denoiser, x, t, pair, cond)
        x = self.corrected(denoiser, x, t, pair, denoised, noise, cond)
        corrected = self.denoise(denoiser, x, t, pair, cond)
        towards_eps = pair.alpha_ts * pair.sigma_s**2 / pair.sigma_t
        x = euler_step(corrected, pair.alpha_s, towards_eps)
        if pair.sigma_s > 0:
            variance = pair.var_ts if self.predictor == "reverse_diffusion" else pair.var_post
            x = x.add_(self.drawn(noise, 0).like(x), alpha=math.sqrt(variance))
        return x, State(denoised)
