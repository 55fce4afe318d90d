"""Annealed Langevin dynamics, and the Langevin steps that a predictor-corrector takes too."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffsweep.diffusion import Denoised, Noise, Step
from diffsweep.samplers.base import Sampler, State, euler_step
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.schedules import Level


@dataclass(kw_only=True, eq=False)
class LangevinSampler(Sampler):
    r"""A sampler that takes Langevin steps at a noise level: :math:`x \leftarrow x + \frac\delta2 \nabla \log p_t(x) + \sqrt\delta z`,
    :math:`\delta = (2 \, \mathrm{snr} \, \sigma_t)^2`.

    The score is :math:`-\epsilon / \sigma`. The step is score_sde's,
    :math:`\delta = 4 (\mathrm{snr} \lVert z \rVert / \lVert \mathrm{score} \rVert)^2` in this form, with
    :math:`\lVert z \rVert / \lVert \mathrm{score} \rVert` at sigma, about what it is for images: its code takes the
    means of the norms over the batch, which would make a sample depend on the others.

    A step draws noise several times: draw k of step i, of which each has n, is that of the counted step n i + k.

    Args:
        snr: the signal-to-noise ratio of a Langevin step, above 0 and below 1.
        corrections: Langevin steps at each level, at least 1.

    Attributes:
        other_draws: how often a step draws noise before its Langevin steps do.
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
        self, denoise: ConditionedDenoiser, x: Tensor, at: Level[float], denoised: Denoised, noise: Noise
    ) -> Tensor:
        """Return x after the Langevin steps at a level, the first of which uses ``denoised``."""
        std = 2 * self.snr * at.sigma
        for k in range(self.corrections):
            eps = (denoise(x, at) if k > 0 else denoised).eps
            x = torch.add(x, eps, alpha=-(std**2) / (2 * at.sigma))
            x = x.add_(self.drawn(noise, self.other_draws + k).like(x), alpha=std)
        return x

    def drawn(self, noise: Noise, k: int) -> Noise:
        """Return the noise of the k-th draw within a walk's step."""
        return noise.at(noise.step * (self.other_draws + self.corrections) + k)


@dataclass(kw_only=True, eq=False)
class Langevin(LangevinSampler):
    r"""Annealed Langevin dynamics (Song & Ermon 2019, arXiv:1907.05600, alg. 1): at each level ``corrections`` steps of

    .. math:: x \leftarrow x - \frac{\delta}{2 \sigma_t} \epsilon + \sqrt\delta z, \quad \delta = (2 \, \mathrm{snr} \, \sigma_t)^2,

    then on to the next level with the same :math:`x / \sqrt{\alpha^2 + \sigma^2}`. The step to clean data ends with x_0 (the denoising step of
    arXiv:2006.09011), of one network call more.

    No predictor takes the noise away, and where it is small the steps are as well: some noise stays in the sample (with these
    settings, 250 steps and the linear schedule a variance of 0.016), and a thousand network calls are few. What it is best for is the
    corrector of :class:`~diffsweep.samplers.PredictorCorrector`.

    Differences from the public code (NCSN), kept on purpose. Its :math:`\delta = 2 \epsilon \sigma^2 / \sigma_L^2` is this one for
    :math:`\mathrm{snr}^2 = \epsilon / (2 \sigma_L^2)`, and its x is kept from level to level: the same where sigma is small and alpha 1; the norm
    kept here suits every alpha and starts with any share of signal.
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
