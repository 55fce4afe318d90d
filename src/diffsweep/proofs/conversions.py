"""The proof that conversions are inverse to each other: a prediction and x0, eps; t and the log-SNR."""

from collections.abc import Iterator

import torch

from diffsweep.diffusion import AsPredicted, Noise, Stream, add_noise
from diffsweep.proofs.base import Check, Subject, proof
from diffsweep.proofs.data import MEANS, exact_mixture


@proof(place=10)
def round_trips(subject: Subject) -> Iterator[Check]:
    """Yield checks that conversions are inverse to each other, at 257 times from t_min to t_max.

    The x0 and eps of an exact denoiser are converted to the target of the chosen prediction and back, and must be
    recovered and satisfy x_t = alpha x0 + sigma eps to 1e-9. Left out are times at which the estimates do not depend on
    the target, such as the lowest of a consistency function. Times are converted to the log-SNR and back, to 1e-6.
    """
    schedule, converters = subject.schedule, (subject.prediction.x0, subject.prediction.eps)
    t = torch.linspace(schedule.t_min, schedule.t_max, 257, dtype=torch.float64)
    exact, eps = exact_mixture(schedule), Noise(0, torch.arange(len(t)))
    x_0 = MEANS[torch.arange(len(t)) % len(MEANS)]
    x_t = add_noise(schedule, x_0, t, eps.normal(2, stream=Stream.EPS, dtype=torch.float64))
    truth, ours = exact(x_t, t), AsPredicted(exact, subject.prediction)(x_t, t)
    alpha, sigma = (value[:, None] for value in schedule(t))
    # A rounding error of the network's output causes an error of x0 that grows like sigma / alpha.
    x0_errors = (ours.x0 - truth.x0).abs() / (1 + sigma / alpha)
    outputs = torch.zeros_like(x_t), torch.ones_like(x_t)
    both = [torch.cat([convert(output, x_t, alpha, sigma) for convert in converters], 1) for output in outputs]
    free = (both[0] != both[1]).any(1)
    yield Check("round trip of the prediction: x0", float(x0_errors[free].max()), most=1e-9)
    yield Check("round trip of the prediction: eps", float((ours.eps - truth.eps)[free].abs().max()), most=1e-9)
    decomposed = (alpha * ours.x0 + sigma * ours.eps - x_t).abs() / (alpha + sigma)
    yield Check("x_t = alpha x0 + sigma eps", float(decomposed.max()), most=1e-9)
    error = (schedule.time_of(schedule.log_snr(t)) - t).abs().max()
    yield Check("round trip of t and log-SNR", float(error), most=1e-6)
