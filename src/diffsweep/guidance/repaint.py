r"""RePaint: the measured part of x is drawn anew after every step, and sampling goes back in t again and again.

.. math:: x_s \leftarrow x_s + A^+ (\alpha_s y + \sigma_s A z - A x_s)

y = A x_0 is a linear measurement of the sample, such as the pixels under a mask, and z standard normal, fresh in every
step: for a mask the known part of :math:`x_s` becomes a draw of :math:`q(x_s | x_0)`. Steps back,
:math:`x_t \sim q(x_t | x_s)`, and down again let the unknown part settle beside it.
"""

from collections.abc import Sequence

from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, Move, Noise, PlainDenoiser, Step, Stream, joined
from diffsweep.guidance.base import Guidance
from diffsweep.schedules import Level


class RePaint(Guidance):
    r"""Guidance by a measurement that repeats parts of the way (RePaint, Lugmayr et al. 2022, arXiv:2201.09865).

    A linear measurement :math:`y = A x_0` of each sample is given as ``cond.known``: pixels under a mask, frames of a
    clip, means of squares. The denoiser's estimates stay as they are. After each of the sampler's steps down to s, the
    measured part of :math:`x_s` is drawn anew from :math:`q(A x_s | y) = N(\alpha_s y, \sigma_s^2 A A^T)`, and y itself
    at clean data (the paper's eq. 8). With one passage the rest hardly follows y, as under
    :class:`~diffsweep.guidance.Replacement`.

    So the way is repeated in parts: when the sampler is 1, 1 + j, 1 + 2 j, ... steps from its end, with j the jump
    length, x is taken back up j steps by the process, :math:`x_t \sim q(x_t | x_s)`, and down again, until these steps
    have been taken ``resamplings`` times. (The published code adds the noise of the j steps one after the other, which
    is the same distribution.) K steps become :math:`K + (r - 1) j \lfloor (K - 1) / j \rfloor` steps for r passages,
    each as many network calls as the sampler takes. Where the sampler goes back, a multistep solver begins anew.

    The known part has noise of its own in each step, independent of that of the sampler's steps, and both depend on a
    sample's index alone. Without a measurement the path and the estimates are unchanged.

    In the limit of many passages of small steps, Gaussian data have the right mean and covariance given y. With few,
    the samples follow y too little.

    Args:
        denoiser: the denoiser to guide, guided itself or not.
        jump_length: j, the number of steps of a part that is repeated, at least 1.
        resamplings: r, how often each part is passed, at least 1; 1 repeats nothing.
        interval: the least and the most time between which parts are repeated, both included, 0 <= least < most <= 1;
            the paper repeats all. Near t = 1 nothing is decided yet and near t = 0 everything is, so the same number of
            network calls does more in between.
        times: not used; it is accepted because guidances are called with the times of the sampler's steps.

    Raises:
        ValueError: an option is out of its range; or, in sampling, j steps back do not fit into the sampler's steps.
    """

    requires = frozenset({"fixed_steps"})
    provides = frozenset({"measurement"})

    def __init__(
        self,
        denoiser: Denoiser | PlainDenoiser,
        jump_length: int = 10,
        resamplings: int = 5,
        interval: Sequence[float] = (0.0, 1.0),
        times: Tensor | None = None,
    ) -> None:
        super().__init__(denoiser, scale=1.0, interval=interval)
        if jump_length < 1:
            raise ValueError(f"guidance.jump_length is a number of steps, at least 1, not {jump_length}")
        if resamplings < 1:
            raise ValueError(f"guidance.resamplings must be at least 1, which repeats nothing, not {resamplings}")
        self.jump_length, self.resamplings = jump_length, resamplings

    @property
    def described(self) -> str:
        return f"RePaint, {self.jump_length} steps at a time, {self.resamplings} times"

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        return self.denoiser(x_t, t, cond)

    def steps_refused_because(self, steps: int) -> str | None:
        if self.resamplings == 1 or steps > self.jump_length:
            return None
        fix = f"guidance.jump_length={steps - 1} or less, or " if steps > 1 else ""
        return (
            f"guidance.jump_length={self.jump_length} goes back more steps than the {steps} of sampler.steps leave "
            f"before the last one; use {fix}sampler.steps={self.jump_length + 1} or more"
        )

    def path(self, steps: Sequence[Step[float]], measured: bool = False) -> list[Move]:
        if not measured:
            return self.denoiser.path(steps, measured)
        if reason := self.steps_refused_because(len(steps)):
            raise ValueError(reason)
        moves, length = [], self.jump_length
        for i, step in enumerate(steps):
            moves.append(Move(step))
            left = len(steps) - 1 - i
            if left % length == 1 % length and 0 < left <= len(steps) - length:
                part = steps[i + 1 - length : i + 1]
                if part[0].at_t.t > self.most or step.at_s.t < self.least:
                    continue
                moves += (self.resamplings - 1) * [Move(joined(part), up=True), *map(Move, part)]
        return moves

    def corrected(self, x: Tensor, level: Level[float], cond: Condition | None, noise: Noise) -> Tensor:
        x = self.denoiser.corrected(x, level, cond, noise)
        if cond is None or cond.known is None:
            return x
        measurement, y = cond.known.measurement, cond.known.y.to(x)
        if level.sigma > 0:
            y = (level.alpha * y).add_(measurement.apply(noise.like(x, Stream.KNOWN)), alpha=level.sigma)
        return measurement.project(y, x)
