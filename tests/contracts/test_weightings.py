"""Every option of conf/weighting keeps the contract of weightings."""

import itertools
from pathlib import Path

import pytest
import torch

from diffsweep.configuration.build import build
from diffsweep.diffusion import EDM, X0, Eps, Flow, NetworkDenoiser, Score, Simple, V
from diffsweep.schedules import VE, VP, Cosine, Linear
from diffsweep.schedules import Flow as Straight

OPTIONS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/weighting").glob("*.yaml"))
SCHEDULES = [Linear(1000), VP(), VE(), Straight()]
PREDICTIONS = [Eps(), X0(), V(), Score(), Score(scale_by_sigma=True), Flow(), EDM(), EDM(sigma_data=0.3)]
CASES = list(itertools.product(SCHEDULES, PREDICTIONS))
T = torch.tensor([0.05, 0.3, 0.5, 0.9], dtype=torch.float64)

pytestmark = pytest.mark.parametrize("option", OPTIONS)


@pytest.fixture
def weighting(compose, option):
    return build(compose(f"weighting={option}"), "weighting")


class Fixed(torch.nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x, c_noise, cond):
        return self.output


def losses_of_one_error(weighting, schedule, prediction):
    """Return the weighted loss of a network with a given error in x0 for any prediction, and the squared error."""
    generator = torch.Generator().manual_seed(3)
    x_0, eps, error = torch.randn(3, len(T), 5, generator=generator, dtype=torch.float64)
    alpha, sigma = (value[:, None] for value in schedule(T))
    output = prediction.target(x_0 + error, eps - alpha * error / sigma, alpha, sigma)
    denoiser = NetworkDenoiser(Fixed(output), schedule, prediction)
    return Simple("l2", weighting)(denoiser, x_0, None, T, eps), error.square().mean(1)


def test_one_error_in_x0_costs_the_same_for_every_prediction(weighting):
    """The cost is the weight in x0 units times the square of the error."""
    if not weighting.provides:
        pytest.skip("is in the units of the output")
    for schedule, prediction in CASES:
        losses, squares = losses_of_one_error(weighting, schedule, prediction)
        expected = weighting.in_x0_units(schedule.log_snr(T)) * squares
        torch.testing.assert_close(losses, expected, rtol=1e-10, atol=0)


def test_only_the_uniform_one_changes_nothing(weighting):
    largest = 0.0
    for schedule, prediction in CASES:
        losses, plain = (losses_of_one_error(weights, schedule, prediction)[0] for weights in (weighting, None))
        weight = weighting(NetworkDenoiser(Fixed(None), schedule, prediction), T)
        torch.testing.assert_close(weight * plain, losses, rtol=1e-12, atol=0)
        largest = max(largest, float((losses / plain - 1).abs().max()))
    assert largest == 0 if not weighting.provides else largest > 0.1


def test_weights_are_positive_at_every_training_time(weighting):
    for schedule, prediction in CASES:
        t = schedule.time_at(torch.linspace(0, 1 - 1e-9, 1001).double())
        weight = weighting(NetworkDenoiser(Fixed(None), schedule, prediction), t)
        assert weight.dtype == torch.float64
        assert weight.shape == t.shape
        assert weight.isfinite().all()
        assert (weight > 0).all()


def test_weights_are_those_of_float64_for_times_of_any_dtype(weighting):
    for schedule, prediction in CASES:
        denoiser = NetworkDenoiser(Fixed(None), schedule, prediction)
        assert torch.equal(weighting(denoiser, T.float()), weighting(denoiser, T.float().double()))


def test_losses_keep_their_dtype(weighting):
    losses = weighting.weigh(torch.ones(4), NetworkDenoiser(Fixed(None), Linear(1000), V()), T.float())
    assert losses.dtype == torch.float32


def test_weights_are_finite_where_no_signal_is_left(weighting):
    schedule = Cosine(100, zero_terminal_snr=True)
    for prediction in (V(), X0(), Flow(), EDM()):
        weight = weighting(NetworkDenoiser(Fixed(None), schedule, prediction), torch.ones(1, dtype=torch.float64))
        assert weight.isfinite().all()
        assert (weight >= 0).all()
