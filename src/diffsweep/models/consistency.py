r"""Consistency models: the student's network has one value on each trajectory of the sampling ODE (arXiv:2303.01469).

.. math:: L = w(t, s) \, d(f(x_t, t, c), f^-(x_s, s, c)), \qquad s < t \text{ neighbours}

with a distance d of samples. In distillation :math:`x_s` is where one step of a trained teacher leads from
:math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`. Without a teacher it is :math:`\alpha_s x_0 + \sigma_s \epsilon` of the
same data and noise, whose mean over the data is the same to first order in t - s; a trained diffusion model can then
still give the weights to start from (arXiv:2406.14548). :math:`f^-` is evaluated without a gradient, with an average of
the student's weights or with these themselves. At the lowest noise level f is the identity by its prediction, and its
values spread from that level to all times.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from diffsweep.autoencoders import Perceptual
from diffsweep.diffusion import (
    Condition,
    Discretisation,
    Noise,
    Step,
    Stream,
    at_least_single,
    expand_to,
    step_between,
)
from diffsweep.models.distilled import Student
from diffsweep.models.teacher import Teacher
from diffsweep.models.timed import Losses

KEY = "target_network"
Distance = Literal["l2", "l1", "pseudo_huber", "perceptual"]


def squares(x: Tensor, y: Tensor, c: float | None) -> Tensor:
    """Return the mean of the squared differences of samples, (B,)."""
    return (x - y).square().flatten(1).mean(1)


def absolutes(x: Tensor, y: Tensor, c: float | None) -> Tensor:
    """Return the mean of the absolute differences of samples, (B,)."""
    return (x - y).abs().flatten(1).mean(1)


def pseudo_huber(x: Tensor, y: Tensor, c: float | None) -> Tensor:
    r"""Return :math:`\sqrt{\lVert x - y \rVert^2 + c^2} - c` of samples, (B,), in float32 at least.

    It is between the squared distance and the distance, and c is where it turns (arXiv:2310.14189, section 3.3).

    Args:
        x, y: samples of D numbers, (B, ...).
        c: above 0; None for :math:`0.00054 \sqrt D`.
    """
    difference = (x - y).flatten(1)
    difference = difference.to(torch.promote_types(difference.dtype, torch.float32))
    c = 0.00054 * math.sqrt(difference.shape[1]) if c is None else c
    return (difference.square().sum(1) + c**2).sqrt() - c


DISTANCES: dict[str, Callable[[Tensor, Tensor, float | None], Tensor]] = {
    "l2": squares,
    "l1": absolutes,
    "pseudo_huber": pseudo_huber,
}


class ConsistencyModel(Student):
    r"""A model that samples in one step or few: a consistency function, learned from a teacher or from data alone.

    The loss is :math:`w \, d(f(x_t, t, c), f^-(x_s, s, c))` at the neighbouring times of a discretisation. The targets
    :math:`f^-` are those of an average of the student's weights, :math:`\theta^- \leftarrow \mu \theta^- + (1 - \mu)
    \theta` after each step, or of the weights themselves if mu is 0. In validation the intervals are those of the end
    of the training. The options ``objective`` and ``time_sampling`` are not used.

    Args:
        parts: the positional arguments of :class:`DiffusionModel`.
        discretisation: the neighbouring times, their weights and mu.
        teacher: the teacher; None to learn from data alone.
        from_data: whether x_s comes from data and noise although a teacher is given, of which only the weights to start
            from are used.
        distance: d: ``l2`` or ``l1`` (means over the numbers of a sample), ``pseudo_huber``, or ``perceptual``.
        c: of the pseudo-Huber distance, above 0; None for :math:`0.00054 \sqrt D`, for samples of D numbers.
        perceptual: the perceptual distance of images, for ``distance="perceptual"``.
        settings: the keyword arguments of :class:`DiffusionModel`.

    Raises:
        ValueError: an argument is out of its range, or the perceptual distance is missing or not used.
    """

    requires = frozenset({"time_pairs"})
    supports = frozenset({"teacher", "time_pairs"})
    shardable = False
    provides = frozenset({"samples", "likelihood", "consistency", "compared_images"})

    def __init__(
        self,
        *parts: Any,
        discretisation: Discretisation | None,
        teacher: Teacher | None = None,
        from_data: bool = False,
        distance: Distance = "pseudo_huber",
        c: float | None = None,
        perceptual: Perceptual | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*parts, teacher=teacher, **settings)
        if discretisation is None:
            raise ValueError("a consistency model needs neighbouring times; use discretisation=grid, or another")
        if refused := distance_refused_because(distance, c, perceptual is not None):
            raise ValueError(refused)
        self.discretisation, self.c, self.from_data = discretisation, c, from_data
        self.perceptual = perceptual
        self.distance: Callable[[Tensor, Tensor, float | None], Tensor] = (
            (lambda x, y, c: perceptual(x, y)) if perceptual is not None else DISTANCES[distance]
        )
        self._target: dict[str, Tensor] = {}  # no submodule: samples need it no more
        self._averaged: dict[str, torch.nn.Parameter] = {}  # the weights of which it is the average

    @property
    def progress(self) -> float:
        """Return the share of the training that has passed, in [0, 1]; 1 in validation, so that losses compare."""
        if not self.training:
            return 1.0
        return 0.0 if self._trainer is None else min(1.0, self.global_step / max(1, self.trainer.max_steps))

    @property
    def lowest(self) -> float:
        """Return sigma / alpha at the noise level where the prediction makes f the identity."""
        return float(getattr(self.denoiser.prediction, "sigma_min", 0.0))

    def lesson_losses(self, x_0: Tensor, cond: Condition | None, noise: Noise) -> Losses:
        schedule, eps = self.denoiser.schedule, noise.like(x_0, Stream.EPS)
        u = noise.uniform(stream=Stream.TIME).to(x_0.device, torch.float64)
        pairs = self.discretisation.pairs(schedule, u, self.progress, self.lowest)
        step = step_between(schedule, pairs.s, pairs.t, pairs.to_clean)
        x_t = _noised(x_0, eps, step.at_t.alpha, step.at_t.sigma)
        w = None if self.teacher is None else self.teacher.scales_of(noise, x_0.device)
        own = cond if self.teacher is None else self.teacher.to_student(cond, w)
        with torch.no_grad():
            x_s = self.neighbours(x_0, eps, x_t, step, cond, w)
            target = self.target(x_s, step.at_s.t, own)
            target = torch.where(expand_to(pairs.to_clean, x_s).bool(), x_s, target)
        estimate = self.denoiser(x_t, step.at_t.t.to(at_least_single(x_t)), own).x0
        losses = pairs.weight.to(target) * self.distance(estimate, target, self.c)
        return Losses(losses, pairs.t.to(losses), torch.ones_like(losses))

    def neighbours(
        self, x_0: Tensor, eps: Tensor, x_t: Tensor, step: Step[Tensor], cond: Condition | None, w: Tensor | None
    ) -> Tensor:
        """Return x_s on the trajectories of x_t, (B, ...): where the teacher's step leads, or from data and noise.

        Args:
            x_0, eps: the clean samples and the noise of which x_t is made, (B, ...).
            x_t: noisy samples, (B, ...).
            step: the noise levels at t and s, (B,) each.
            cond: the condition of each sample, without a guidance scale.
            w: the guidance scale of each sample, (B,); None for no guidance.
        """
        if self.teacher is None or self.from_data:
            return _noised(x_0, eps, step.at_s.alpha, step.at_s.sigma)
        denoiser, taught = self.teacher.denoiser(x_0.device, cond, w)
        return self.teacher.sampler.step_each(denoiser, x_t, step, taught)

    def target(self, x_s: Tensor, s: Tensor, cond: Condition | None) -> Tensor:
        """Return the targets f^-(x_s, s), (B, ...), with the averaged weights, if any.

        Dropout leaves out the same numbers as in the student's estimate that follows.

        Args:
            x_s: samples at s, (B, ...).
            s: their times, (B,).
            cond: the condition of each sample, as the student takes it.
        """
        arguments = (x_s, s.to(at_least_single(x_s)), cond)
        devices = [x_s.device] if x_s.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            if not self._target:
                estimate: Tensor = self.denoiser(*arguments).x0
                return estimate
            weights = {f"backbone.{name}": weight.to(x_s.device) for name, weight in self._target.items()}
            return torch.func.functional_call(self.denoiser, weights, arguments).x0  # type: ignore[no-any-return]

    def optimizer_step(self, *args: Any, **keywords: Any) -> None:
        """Take a step of the optimizer, then update the averaged weights of the targets."""
        decay = self.discretisation.decay(self.progress)
        if decay == 0 and not self._target:
            super().optimizer_step(*args, **keywords)
            return
        if not self._averaged:  # the modules are searched once
            self._averaged = {name: p for name, p in self.denoiser.backbone.named_parameters() if p.requires_grad}
            self._target = {
                name: self._target.get(name, weight.detach()).to(weight.device, copy=True)
                for name, weight in self._averaged.items()
            }
        super().optimizer_step(*args, **keywords)
        with torch.no_grad():
            torch._foreach_lerp_(list(self._target.values()), list(self._averaged.values()), 1 - decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[KEY] = self._target

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._target = {name: weight.clone() for name, weight in checkpoint.get(KEY, {}).items()}


def distance_refused_because(distance: str, c: float | None, perceptual: bool) -> str | None:
    """Return why a distance cannot be used, a sentence with what to type instead; None if it can.

    Args:
        distance, c: as of :class:`ConsistencyModel`.
        perceptual: whether the run has a perceptual distance.
    """
    allowed = (*DISTANCES, "perceptual")
    if distance not in allowed:
        return f"model.distance is one of {', '.join(allowed)}, not {distance}"
    if c is not None and c <= 0:
        return f"model.c must be above 0, not {c}; use null for 0.00054 times the root of the numbers of a sample"
    if perceptual and distance != "perceptual":
        return f"model.distance={distance} leaves the perceptual distance unused; use model.distance=perceptual"
    if distance == "perceptual" and not perceptual:
        return "model.distance=perceptual needs the distance of perceptual=classifier or perceptual=lpips"
    return None


def _noised(x_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return expand_to(alpha, x_0) * x_0 + expand_to(sigma, x_0) * eps
