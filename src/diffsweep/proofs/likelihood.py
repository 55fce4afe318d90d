"""The proof of the likelihood by the probability-flow ODE, against the exact log-density of a mixture."""

from collections.abc import Iterator

import torch

from diffsweep.diffusion import AsPredicted, Noise, Stream, add_noise, ode_log_likelihood
from diffsweep.proofs.base import Check, Subject, proof
from diffsweep.proofs.data import exact_mixture


@proof(place=50)
def likelihood(subject: Subject) -> Iterator[Check]:
    """Yield a check of the log-likelihood by the probability-flow ODE against the exact log-density, in nats.

    Both are of samples of a mixture of Gaussians with noise, at the schedule's lowest noise level, t = ``t_min``. A
    schedule of one step has no ODE and no check.
    """
    schedule, mixture = subject.schedule, exact_mixture(subject.schedule)
    if schedule.t_min >= schedule.t_max:  # a schedule of one step has no ODE between its ends
        return
    lowest, highest = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
    x = add_noise(
        schedule,
        mixture.sample(32, torch.Generator().manual_seed(1)),
        lowest,
        Noise(3, torch.arange(32)).normal(2, stream=Stream.EPS, dtype=torch.float64),
    )
    ours = ode_log_likelihood(AsPredicted(mixture, subject.prediction), x, tolerance=1e-7)
    error = (ours.nats - mixture.log_density(x, lowest)).abs().mean()
    # The prior does not have the signal left at t = 1; the error is about alpha x0 x / sigma^2.
    left = float((schedule.log_snr(highest) / 2).exp()) if schedule.t_max == 1 else 0.01
    yield Check("log-likelihood by the ODE, mean error in nats", float(error), most=1e-3 + 2 * left)
