r"""Annealed Langevin dynamics, and Langevin steps at one noise level.

.. math:: x \leftarrow x - \frac{\delta}{2 \sigma_t} \epsilon + \sqrt\delta \, z,
    \quad \delta = (2 \, \mathrm{snr} \, \sigma_t)^2

is a Langevin step at the level t: a step of size delta / 2 along the score :math:`-\epsilon / \sigma_t`, plus standard
normal noise z. Many such steps sample from :math:`p_t(x)`. :class:`~diffsweep.samplers.PredictorCorrector` takes such
steps as its corrector.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffsweep.diffusion import Denoised, Noise, Step
from diffsweep.samplers.base import Sampler, State, euler_step
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.schedules import Level


@dataclass(kw_only=True, eq=False)
class LangevinSampler(Sampler):
    r"""A sampler that takes Langevin steps at each noise level; subclasses go from one level to the next.

    A Langevin step is :math:`x \leftarrow x + \frac\delta2 \nabla \log p_t(x) + \sqrt\delta z`,
    :math:`\delta = (2 \, \mathrm{snr} \, \sigma_t)^2`, with the score :math:`\nabla \log p_t = -\epsilon / \sigma_t` of
    the denoiser and standard normal z. score_sde's code has
    :math:`\delta = 4 (\mathrm{snr} \lVert z \rVert / \lVert \mathrm{score} \rVert)^2` in this form, with the means of
    the norms over the batch, which make a sample depend on the others. Here
    :math:`\lVert z \rVert / \lVert \mathrm{score} \rVert` is replaced by sigma, about its value for images.

    A step of the sampler, from one level to the next, draws noise several times. If it draws n times, its draw k in
    step i is keyed by the number n i + k, so that no two draws are equal.

    Args:
        snr: the signal-to-noise ratio of a Langevin step, above 0 and below 1.
        corrections: the number of Langevin steps at each level, 1 to 4095.

    Attributes:
        other_draws: the number of draws that a step makes besides those of its Langevin steps; a subclass sets it.

    Raises:
        ValueError: snr or corrections is out of its range.
    """

    other_draws = 0
    snr: float
    corrections: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.snr < 1:
            raise ValueError(f"sampler.snr lies between 0 and 1, both excluded, not {self.snr}")
        if not 1 <= self.corrections < 2**12:
            raise ValueError(f"sampler.corrections lies between 1 and {2**12 - 1}, not {self.corrections}")

    def corrected(
        self, denoise: ConditionedDenoiser, x: Tensor, level: Level[float], denoised: Denoised, noise: Noise
    ) -> Tensor:
        """Return x, (B, ...), after the ``corrections`` Langevin steps at one noise level.

        Args:
            denoise: the denoiser with its condition and clipping; it is called for all but the first Langevin step.
            x: noisy samples at the level, (B, ...).
            level: the time, with alpha and sigma at that time.
            denoised: the denoiser's estimate at x, which the first Langevin step uses.
            noise: the source of the noise of this step of the sampler.
        """
        std = 2 * self.snr * level.sigma
        for k in range(self.corrections):
            eps = (denoise(x, level) if k > 0 else denoised).eps
            x = torch.add(x, eps, alpha=-(std**2) / (2 * level.sigma))
            x = x.add_(self.drawn(noise, self.other_draws + k).like(x), alpha=std)
        return x

    def drawn(self, noise: Noise, k: int) -> Noise:
        """Return the source of the noise of draw k, from 0, within the step of the sampler whose noise is ``noise``."""
        return noise.at(noise.step * (self.other_draws + self.corrections) + k)


@dataclass(kw_only=True, eq=False)
class Langevin(LangevinSampler):
    r"""Sample with annealed Langevin dynamics (Song & Ermon 2019, arXiv:1907.05600, alg. 1).

    At each level it takes ``corrections`` Langevin steps

    .. math:: x \leftarrow x - \frac{\delta}{2 \sigma_t} \epsilon + \sqrt\delta z,
        \quad \delta = (2 \, \mathrm{snr} \, \sigma_t)^2,

    with the denoiser's eps and standard normal z, then goes to the next level with the same :math:`x / \sqrt{\alpha^2 +
    \sigma^2}`. The step to clean data ends with x_0 (the denoising step of arXiv:2006.09011), which takes one more
    network call; the others take ``corrections``.

    No predictor removes noise, and the Langevin steps are small where sigma is, so some noise stays in the samples (a
    variance of 0.016 with these defaults, 250 steps and the linear schedule), and even a thousand network calls are
    few. As the corrector of :class:`~diffsweep.samplers.PredictorCorrector` such steps are more useful.

    Intended differences from the public code (NCSN). Its :math:`\delta = 2 \epsilon \sigma^2 / \sigma_L^2`, with its
    step size epsilon, is the same for :math:`\mathrm{snr}^2 = \epsilon / (2 \sigma_L^2)`. It keeps x unchanged from
    level to level, which is equal where alpha is 1 and sigma small; keeping :math:`x / \sqrt{\alpha^2 + \sigma^2}`
    suits every alpha and any log-SNR at the start.
    """

    steps: int = 100
    snr: float = 0.25
    corrections: int = 10

    def advance(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], state: State | None, noise: Noise
    ) -> tuple[Tensor, State]:
        denoised, at_t, at_s = denoise(x, step.at_t), step.at_t, step.at_s
        x = self.corrected(denoise, x, at_t, denoised, noise)
        if at_s.sigma == 0:
            return euler_step(denoise(x, at_t), at_s.alpha, 0.0), State(denoised)
        return x * (at_s.norm / at_t.norm), State(denoised)
