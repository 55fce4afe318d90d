"""The data of the proofs, with exact denoisers: a Gaussian and a mixture in the plane, and Gaussian clips."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from diffsweep.configuration import loading
from diffsweep.diffusion import AsPredicted, Denoiser, GaussianMixtureDenoiser, Noise, Prediction, Stream, add_noise
from diffsweep.schedules import Schedule

MEAN = torch.tensor([0.2, -0.1], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.08, 0.03], [0.03, 0.05]], dtype=torch.float64)
MEANS = torch.tensor([[0.45, 0.35], [-0.45, 0.15], [0.05, -0.5]], dtype=torch.float64)
ROOTS = torch.tensor(
    [[[0.15, 0.0], [0.05, 0.1]], [[0.1, 0.0], [-0.05, 0.12]], [[0.12, 0.0], [0.0, 0.08]]], dtype=torch.float64
)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
CLASSES = torch.tensor([0, 1, 0])  # of the components, for guidance
# Clips of four frames, with one number for each frame.
CLIP_MEAN = torch.tensor([0.2, 0.1, 0.0, -0.1], dtype=torch.float64)
CLIP_COVARIANCE = 0.08 * 0.8 ** (torch.arange(4)[:, None] - torch.arange(4)).abs().double()
CLIP_KNOWN = torch.tensor([True, False, False, True])
CLIP_VALUES = torch.tensor([0.5, 0.0, 0.0, -0.4], dtype=torch.float64)


def exact_mixture(schedule: Schedule) -> GaussianMixtureDenoiser:
    """Return the exact denoiser of the proofs' mixture of three Gaussians in the plane, without a prediction.

    The data are (B, 2) in float64; the components have the weights 0.5, 0.3, 0.2 and the classes 0, 1, 0.
    """
    return GaussianMixtureDenoiser(schedule, MEANS, ROOTS @ ROOTS.mT, WEIGHTS, classes=CLASSES)


class StandIn:
    """A replacement of the trained models that guidance uses, with exact functions of a mixture of Gaussians.

    Attributes:
        log_prob: a function of x_t and t that returns the exact log p(y | x_t), as a noisy classifier has it.
        denoiser: the exact denoiser of a mixture with twice the covariances, in place of autoguidance's weaker model.
    """

    def __init__(self, schedule: Schedule, prediction: Prediction) -> None:
        self.log_prob = exact_mixture(schedule).log_prob
        wide = GaussianMixtureDenoiser(schedule, MEANS, 2 * ROOTS @ ROOTS.mT, WEIGHTS, classes=CLASSES)
        self.denoiser = AsPredicted(wide, prediction)


def with_stand_ins(guidance: Callable[..., Denoiser], stand_in: StandIn) -> Callable[..., Denoiser]:
    """Return ``guidance`` with each trained model that it would load replaced by ``stand_in``.

    Args:
        guidance: a function that wraps a denoiser. A trained model is a partial call of
            :func:`diffsweep.configuration.loading.trained` among its keyword arguments, or among those of a guidance in
            it. Anything but a ``functools.partial`` is returned as it is.
        stand_in: has the functions of a classifier and of a weaker model.
    """
    if not isinstance(guidance, partial):
        return guidance
    if guidance.func is loading.trained:
        return lambda: stand_in  # type: ignore[return-value]
    keywords = {
        name: with_stand_ins(value, stand_in) if isinstance(value, partial) else value
        for name, value in guidance.keywords.items()
    }
    return partial(guidance.func, *guidance.args, **keywords)


def mixture_at_start(schedule: Schedule, count: int, start: float) -> Tensor:
    """Return the x, (count, 2), from which sampling of the mixture starts at t = ``start``.

    For start = 1 it is noise N(0, sigma_1^2) of the prior, otherwise alpha x_0 + sigma eps at ``start`` of samples x_0
    of the mixture. The random numbers are fixed.
    """
    noise = Noise(0, torch.arange(count)).normal(2, stream=Stream.PRIOR, dtype=torch.float64)
    t = torch.tensor(start, dtype=torch.float64)
    with torch.no_grad():
        if start == 1:
            return schedule(t)[1] * noise
        data = exact_mixture(schedule).sample(count, torch.Generator().manual_seed(2))
        return add_noise(schedule, data, t, noise)


def mixture_at_stop(schedule: Schedule, x_0: Tensor, stop: float) -> Tensor:
    """Return alpha x_0 + sigma eps at t = ``stop`` for data ``x_0`` (B, 2) and fixed noise; x_0 itself for stop = 0."""
    if stop == 0:
        return x_0
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(3), dtype=x_0.dtype)
    with torch.no_grad():
        return add_noise(schedule, x_0, torch.tensor(stop, dtype=torch.float64), eps)
