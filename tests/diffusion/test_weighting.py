"""Weightings agree with the papers' formulas in the units of their own outputs."""

import math

import pytest
import torch

from diffsweep import schedules
from diffsweep.diffusion import (
    EDM,
    P2,
    SNR,
    X0,
    EDMWeighting,
    Eps,
    Flow,
    GaussianDenoiser,
    MinSNR,
    Score,
    SigmoidWeighting,
    Simple,
    TruncatedSNR,
    UniformWeighting,
    V,
)
from diffsweep.schedules import VE, VP, Cosine, Linear, SubVP
from diffsweep.schedules import Flow as Straight

T = torch.tensor([0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99], dtype=torch.float64)
PRESERVING = [Linear(1000), Cosine(1000), VP()]
ALL = [*PRESERVING, SubVP(), VE(), schedules.EDM(), Straight()]


def weights(weighting, schedule, prediction):
    denoiser = GaussianDenoiser(schedule, torch.zeros(1).double(), torch.eye(1).double(), prediction)
    return weighting(denoiser, T)


def snr_of(schedule):
    alpha, sigma = schedule(T)
    return alpha**2 / sigma**2


@pytest.mark.parametrize("schedule", PRESERVING)
@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr_is_that_of_the_paper(schedule, gamma):
    """Hang et al., section 3.4: min(SNR, g) for x0, divided by SNR for eps and by SNR + 1 for v."""
    snr, weighting = snr_of(schedule), MinSNR(gamma)
    least = torch.minimum(snr, torch.tensor(gamma, dtype=torch.float64))
    for prediction, expected in ((X0(), least), (Eps(), least / snr), (V(), least / (snr + 1))):
        torch.testing.assert_close(weights(weighting, schedule, prediction), expected, rtol=1e-9, atol=0)
    assert snr.min() < gamma < snr.max()


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize(("k", "gamma"), [(1.0, 1.0), (1.0, 0.5), (0.2, 2.0), (3.0, 0.0)])
def test_p2_on_eps_is_that_of_the_paper(schedule, k, gamma):
    expected = (k + snr_of(schedule)) ** -gamma
    torch.testing.assert_close(weights(P2(k, gamma), schedule, Eps()), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("sigma_data", [0.5, 0.1, 1.0])
def test_edm_on_x0_is_lambda_of_the_paper(sigma_data):
    """Table 1: (sigma^2 + sd^2) / (sigma sd)^2, where alpha = 1."""
    for schedule in (VE(), schedules.EDM()):
        _, sigma = schedule(T)
        expected = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
        torch.testing.assert_close(weights(EDMWeighting(sigma_data), schedule, X0()), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize("sigma_data", [0.5, 0.1, 1.0])
def test_edm_is_1_in_the_units_of_its_preconditioned_output(schedule, sigma_data):
    """This holds on every schedule, not only where alpha = 1."""
    weight = weights(EDMWeighting(sigma_data), schedule, EDM(sigma_data=sigma_data))
    torch.testing.assert_close(weight, torch.ones_like(T), rtol=1e-9, atol=0)


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize("bias", [-3.0, 0.0, 2.0])
def test_sigmoid_on_eps_is_a_logistic_of_the_log_snr(schedule, bias):
    expected = 1 / (1 + torch.exp(schedule.log_snr(T) - bias))
    torch.testing.assert_close(weights(SigmoidWeighting(bias), schedule, Eps()), expected, rtol=1e-9, atol=0)


def test_sigmoid_keeps_its_digits_where_the_logistic_rounds_to_0_or_1():
    weighting = SigmoidWeighting(-3.0)
    w = weighting.in_x0_units(torch.tensor([-100.0, -30.0, 50.0], dtype=torch.float64))
    expected = torch.tensor([math.exp(-100), math.exp(-30) / (1 + math.exp(-27)), math.exp(-3)], dtype=torch.float64)
    torch.testing.assert_close(w, expected, rtol=1e-12, atol=0)


def test_sigmoid_is_a_soft_min_snr():
    """In x0 units it is SNR at low SNR and e^b at high SNR, like min(SNR, e^b)."""
    log_snr = torch.tensor([-30.0, 30.0], dtype=torch.float64)
    soft, hard = (weighting.in_x0_units(log_snr) for weighting in (SigmoidWeighting(1.5), MinSNR(math.exp(1.5))))
    torch.testing.assert_close(soft, hard, rtol=1e-11, atol=0)


@pytest.mark.parametrize("schedule", ALL)
def test_truncated_snr_is_that_of_the_paper(schedule):
    """Salimans & Ho, section 4: max(|x0 error|^2, |eps error|^2), so max(1, 1 / SNR) on eps."""
    snr = snr_of(schedule)
    expected = torch.maximum(torch.ones_like(snr), 1 / snr)
    torch.testing.assert_close(weights(TruncatedSNR(), schedule, Eps()), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("schedule", PRESERVING)
def test_snr_plus_1_is_the_simple_loss_on_v(schedule):
    """Salimans & Ho, section 4."""
    torch.testing.assert_close(weights(EDMWeighting(1.0), schedule, V()), torch.ones_like(T), rtol=1e-9, atol=0)


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize("prediction", [Eps(), X0(), V(), Score(), Score(scale_by_sigma=True), Flow(), EDM()])
def test_snr_is_the_simple_loss_on_eps_whatever_is_predicted(schedule, prediction):
    x_0, eps = torch.randn(len(T), 3).double(), torch.randn(len(T), 3).double()
    data = torch.full((3,), 0.3).double(), 0.5 * torch.eye(3).double()
    simple = Simple()(GaussianDenoiser(schedule, *data, Eps()), x_0, None, T, eps)
    losses = Simple("l2", SNR())(GaussianDenoiser(schedule, *data, prediction), x_0, None, T, eps)
    torch.testing.assert_close(losses, simple, rtol=1e-9, atol=0)


@pytest.mark.parametrize("loss", ["l1", "huber"])
def test_a_weight_multiplies_other_distances_too(loss):
    x_0, eps, schedule = torch.randn(len(T), 3).double(), torch.randn(len(T), 3).double(), Linear(1000)
    denoiser = GaussianDenoiser(schedule, torch.zeros(3).double(), torch.eye(3).double(), V())
    plain, weighted = (Simple(loss, weighting)(denoiser, x_0, None, T, eps) for weighting in (None, MinSNR()))
    torch.testing.assert_close(weighted, plain * weights(MinSNR(), schedule, V()), rtol=1e-12, atol=0)


def test_uniform_has_no_weight_in_x0_units():
    with pytest.raises(AttributeError):
        UniformWeighting().in_x0_units(T)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MinSNR(0.0),
        lambda: P2(k=0.0),
        lambda: P2(gamma=-1.0),
        lambda: EDMWeighting(0.0),
    ],
)
def test_refuses_values_that_make_no_sense(make):
    with pytest.raises(ValueError, match="weighting"):
        make()
