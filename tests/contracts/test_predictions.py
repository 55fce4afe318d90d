"""Every option of conf/prediction keeps the contract of predictions, on every kind of schedule."""

import functools
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from diffsweep import schedules
from diffsweep.configuration.build import build
from diffsweep.diffusion import Eps

OPTIONS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/prediction").glob("[!_]*.yaml"))
SCHEDULES = {
    "linear": schedules.Linear(1000),
    "cosine": schedules.Cosine(1000),
    "zero_terminal": schedules.Linear(1000, zero_terminal_snr=True),
    "vp": schedules.VP(),
    "sub_vp": schedules.SubVP(),
    "ve": schedules.VE(),
    "edm": schedules.EDM(),
    "flow": schedules.Flow(),
    "cosine_continuous": schedules.CosineContinuous(),
    "learned": schedules.Learned(width=8).requires_grad_(False),
}
T = torch.tensor([0.001, 0.01, 0.2, 0.5, 0.8, 0.999, 1.0], dtype=torch.float64)

pytestmark = pytest.mark.parametrize("option", OPTIONS)


@pytest.fixture(scope="module")
def made(compose):
    @functools.cache
    def of(option, variance=None):
        cfg = compose(f"prediction={option}")
        if variance is None:
            return build(cfg, "prediction")
        return instantiate(cfg.prediction, _convert_="all", variance=variance)

    return of


@pytest.fixture
def prediction(made, option):
    return made(option)


@pytest.fixture
def levels(prediction):
    """Return alpha and sigma where x0 follows from the output: for some predictions not where alpha is 0."""
    alpha, sigma = (torch.cat(values) for values in zip(*(of(T) for of in SCHEDULES.values()), strict=True))
    finite = torch.stack(prediction.coefficients(alpha, sigma)).isfinite().all(0)
    assert finite[alpha > 0].all()
    return alpha[finite, None], sigma[finite, None]


@pytest.fixture
def pair(levels):
    return torch.randn(2, len(levels[0]), 5, dtype=torch.float64).unbind()


def test_target_converts_back_to_x0_and_eps(prediction, levels, pair):
    """It does so to 1e-12 of the larger of the terms that are subtracted."""
    (alpha, sigma), (x_0, eps) = levels, pair
    x_t = alpha * x_0 + sigma * eps
    target = prediction.target(x_0, eps, alpha, sigma)
    terms = 1 + (prediction.coefficients(alpha, sigma).c_skip * x_t).abs()
    assert ((prediction.x0(target, x_t, alpha, sigma) - x_0).abs() <= 1e-12 * terms).all()
    terms = 1 + (x_t / sigma).abs()
    assert ((prediction.eps(target, x_t, alpha, sigma) - eps).abs() <= 1e-12 * terms).all()


def test_any_output_decomposes_x_t(prediction, levels, pair):
    """x_t = alpha x0 + sigma eps holds for any output of the network."""
    (alpha, sigma), (x_t, output) = levels, pair
    x0, eps = prediction.x0(output, x_t, alpha, sigma), prediction.eps(output, x_t, alpha, sigma)
    terms = 1 + (sigma * eps).abs()
    assert ((alpha * x0 + sigma * eps - x_t).abs() <= 1e-12 * terms).all()


def test_conversion_to_the_target_and_back_is_the_identity(prediction, levels, pair):
    (alpha, sigma), (x_t, output) = levels, pair
    x0, eps = prediction.x0(output, x_t, alpha, sigma), prediction.eps(output, x_t, alpha, sigma)
    from_x0 = prediction.target(torch.ones_like(alpha), torch.zeros_like(alpha), alpha, sigma)
    from_eps = prediction.target(torch.zeros_like(alpha), torch.ones_like(alpha), alpha, sigma)
    terms = 1 + (from_x0 * x0).abs() + (from_eps * eps).abs() + (from_eps / sigma * x_t).abs()
    assert ((prediction.target(x0, eps, alpha, sigma) - output).abs() <= 1e-12 * terms).all()


def test_it_agrees_with_eps_prediction(prediction, levels, pair):
    (alpha, sigma), (x_t, output) = levels, pair
    eps = prediction.eps(output, x_t, alpha, sigma)
    signal = alpha[:, 0] > 0
    theirs = Eps().x0(eps, x_t, alpha, sigma)[signal]
    terms = (1 + (sigma / alpha * eps).abs() + (x_t / alpha).abs())[signal]
    assert ((prediction.x0(output, x_t, alpha, sigma)[signal] - theirs).abs() <= 1e-12 * terms).all()


def test_its_coefficients_are_those_of_its_conversion(prediction, levels, pair):
    """x0 = c_skip x_t + c_out F, and no scale of the input is 0."""
    (alpha, sigma), (x_t, output) = levels, pair
    c_in, c_skip, c_out = prediction.coefficients(alpha, sigma)
    assert c_in.shape == c_skip.shape == c_out.shape == alpha.shape
    torch.testing.assert_close(prediction.x0(output, x_t, alpha, sigma), c_skip * x_t + c_out * output)
    assert (c_in > 0).all()
    assert (c_out != 0).all()


def test_numbers_give_the_same_as_tensors(prediction, levels, pair):
    """A sampler has one time for the batch; alpha and sigma are then Python numbers."""
    (alpha, sigma), (x_t, output) = levels, pair
    for row, (a, s) in enumerate(zip(alpha[:, 0].tolist(), sigma[:, 0].tolist(), strict=True)):
        assert all(isinstance(value, float) for value in prediction.coefficients(a, s))
        for convert in (prediction.x0, prediction.eps, prediction.target):
            exact = convert(output, x_t, alpha, sigma)[row]
            torch.testing.assert_close(convert(output[row], x_t[row], a, s), exact, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_time_for_the_network_is_finite_and_rises(prediction, option, name):
    schedule = SCHEDULES[name]
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    c_noise = prediction.c_noise(schedule, t)
    assert torch.isfinite(c_noise).all()
    assert (c_noise.diff() >= 0).all()
    inside = prediction.c_noise(schedule, t.clamp(max(schedule.t_min, 1e-4), schedule.t_max))
    assert (inside[1:-1].diff() > 0).all()
    for given in (t.float(), t.reshape(1, 101)):
        again = prediction.c_noise(schedule, given)
        assert again.shape == given.shape
        assert again.dtype == given.dtype


@pytest.mark.parametrize(
    ("variance", "mix", "more"), [("fixed_small", 0.0, 0), ("fixed_large", 1.0, 0), ("learned_range", None, 1)]
)
def test_the_variance_can_be_chosen(made, option, variance, mix, more):
    chosen = made(option, variance)
    assert chosen.variance_mix == mix
    assert chosen.heads == chosen.outputs + more


def test_another_variance_is_refused_with_the_names_of_all(made, option):
    with pytest.raises(InstantiationException, match="fixed_small, fixed_large, learned_range, not learned"):
        made(option, "learned")
