r"""Predictor-corrector sampling of the reverse SDE.

.. math:: x_t \leftarrow x_t - \frac{\delta}{2 \sigma_t} \epsilon + \sqrt\delta \, z, \qquad
    x_s = \alpha_s x_0 + \alpha_{ts} \frac{\sigma_s^2}{\sigma_t} \epsilon + \sqrt v \, z

are the corrector, a Langevin step at the level t of size :math:`\delta = (2 \, \mathrm{snr} \, \sigma_t)^2`, and the
predictor, a step of the reverse process from t to s < t, with :math:`\alpha_{ts} = \alpha_t / \alpha_s`.
"""

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
    r"""Sample with predictor steps between noise levels and Langevin steps at each (Song et al., arXiv:2011.13456).

    These are the paper's algorithms 2 and 3 (app. G). At each t the corrector comes first, ``corrections`` Langevin
    steps :math:`x \leftarrow x - \frac{\delta}{2 \sigma_t} \epsilon + \sqrt\delta z` with
    :math:`\delta = (2 \, \mathrm{snr} \, \sigma_t)^2` and standard normal z, then the predictor, a step to s < t with
    x_0 and eps at the corrected x:

    .. math:: x_s = \alpha_s x_0 + \alpha_{ts} \frac{\sigma_s^2}{\sigma_t} \epsilon + \sqrt v z,
        \quad \alpha_{ts} = \alpha_t / \alpha_s.

    Its mean is that of :math:`q(x_s | x_t, x_0)`. v is the variance :math:`v_{ts}` of the forward step for
    ``reverse_diffusion``, and the variance of :math:`q(x_s | x_t, x_0)` for ``ancestral``. The step to clean data gives
    x_0, without noise. A step takes ``corrections`` + 1 network calls.

    Intended differences. The corrector comes first, as in score_sde's code; the paper's algorithms put it last. The
    mean in that code for VP, :math:`(2 - \sqrt{1 - \beta}) x + \beta \, \mathrm{score}`, equals this one to first order
    in beta; for VE they are equal. Its Langevin step uses norms over the batch, and for VP one more factor
    :math:`1 - \beta`: see :class:`~diffsweep.samplers.langevin.LangevinSampler`.

    Args:
        predictor: ``reverse_diffusion`` or ``ancestral``, which sets the variance v.
        snr: the signal-to-noise ratio of a Langevin step, above 0 and below 1; in the paper 0.16 for VE and 0.01 for
            VP.
        corrections: the number of Langevin steps at each level, 1 to 4095; :class:`~diffsweep.samplers.Ancestral`
            takes none.

    Raises:
        ValueError: an option is out of its range.
    """

    other_draws = 1  # the draw of the predictor
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
