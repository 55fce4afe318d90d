"""What every option of conf/prediction promises."""

from pathlib import Path

import pytest
import torch

from diffsweep.diffusion import Eps
from diffsweep.runs.build import build
from diffsweep.schedules import Cosine, Linear

OPTIONS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/prediction").glob("*.yaml"))
SCHEDULES = {"linear": Linear(1000), "cosine": Cosine(1000)}
T = torch.tensor([0.001, 0.01, 0.2, 0.5, 0.8, 0.999], dtype=torch.float64)

pytestmark = pytest.mark.parametrize("option", OPTIONS)


@pytest.fixture
def prediction(compose, option):
    return build(compose(f"prediction={option}"), "prediction")


@pytest.fixture(params=SCHEDULES)
def levels(request):
    return tuple(value[:, None] for value in SCHEDULES[request.param](T))


@pytest.fixture
def pair():
    return torch.randn(len(T), 5, dtype=torch.float64), torch.randn(len(T), 5, dtype=torch.float64)


def test_target_converts_back_to_x0_and_eps(prediction, levels, pair):
    (alpha, sigma), (x_0, eps) = levels, pair
    x_t = alpha * x_0 + sigma * eps
    target = prediction.target(x_0, eps, alpha, sigma)
    rounding = 1e-13 / torch.minimum(alpha, sigma)  # of x_t, divided by alpha or sigma
    assert ((prediction.x0(target, x_t, alpha, sigma) - x_0).abs() < rounding).all()
    assert ((prediction.eps(target, x_t, alpha, sigma) - eps).abs() < rounding).all()


def test_any_output_decomposes_x_t(prediction, levels, pair):
    """x_t = alpha x0 + sigma eps for whatever the network says."""
    (alpha, sigma), (x_t, output) = levels, pair
    x0, eps = prediction.x0(output, x_t, alpha, sigma), prediction.eps(output, x_t, alpha, sigma)
    torch.testing.assert_close(alpha * x0 + sigma * eps, x_t, rtol=1e-12, atol=1e-12)


def test_conversion_to_the_target_and_back_is_the_identity(prediction, levels, pair):
    (alpha, sigma), (x_t, output) = levels, pair
    x0, eps = prediction.x0(output, x_t, alpha, sigma), prediction.eps(output, x_t, alpha, sigma)
    again = prediction.target(x0, eps, alpha, sigma)
    assert ((again - output).abs() < 1e-13 / torch.minimum(alpha, sigma)).all()


def test_it_agrees_with_eps_prediction(prediction, levels, pair):
    (alpha, sigma), (x_0, eps) = levels, pair
    x_t = alpha * x_0 + sigma * eps
    ours = prediction.x0(prediction.target(x_0, eps, alpha, sigma), x_t, alpha, sigma)
    theirs = Eps().x0(Eps().target(x_0, eps, alpha, sigma), x_t, alpha, sigma)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_its_two_conversions_are_one_linear_map(prediction, levels, pair):
    """x0 = c_skip x_t + c_out F with the coefficients it states."""
    (alpha, sigma), (x_t, output) = levels, pair
    c_in, c_skip, c_out = prediction.coefficients(alpha, sigma)
    assert c_in.shape == c_skip.shape == c_out.shape == alpha.shape
    torch.testing.assert_close(prediction.x0(output, x_t, alpha, sigma), c_skip * x_t + c_out * output)
    assert torch.isfinite(c_in).all()
    assert (c_in > 0).all()


def test_time_is_embedded_as_public_checkpoints_do(prediction):
    t = torch.tensor([0.001, 0.5, 1.0], dtype=torch.float64)
    seen = prediction.c_noise(Linear(1000), t)
    torch.testing.assert_close(seen, torch.tensor([0.0, 499.0, 999.0], dtype=torch.float64), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(("variance", "mix"), [("fixed_small", 0.0), ("fixed_large", 1.0)])
def test_variance_can_be_chosen(compose, option, variance, mix):
    chosen = build(compose(f"prediction={option}", f"prediction.variance={variance}"), "prediction")
    assert chosen.variance_mix == mix
