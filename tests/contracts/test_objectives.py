"""Every option of conf/objective keeps the contract of objectives.

Expectations over Gaussian data and noise are exact here: a loss that is quadratic in (x_0, eps) is integrated without
error by the three nodes each of Gauss and Hermite.
"""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from parts import parts_of

from diffsweep.configuration.build import build
from diffsweep.configuration.rules.requirements import required_capabilities_are_provided as unprovided
from diffsweep.diffusion import (
    EDM,
    INDEPENDENT,
    X0,
    Denoised,
    Denoiser,
    Eps,
    Flow,
    GaussianDenoiser,
    Noise,
    Score,
    Stream,
    Uniform,
    V,
    expand_to,
    variational_bound,
)
from diffsweep.schedules import VE, VP, CosineContinuous, Learned, Linear
from diffsweep.schedules import Flow as Straight

OPTIONS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/objective").glob("*.yaml"))
T = torch.tensor([0.01, 0.3, 0.6, 1.0], dtype=torch.float64)  # times of a grid of 100
GRID = Linear(100)
CONTINUOUS = [VP(), VE(), Straight(), CosineContinuous()]
INSIDE = torch.tensor([0.02, 0.3, 0.6, 0.97], dtype=torch.float64)
KINDS = [Eps, X0, V, Score, Flow, EDM]
MEAN, VARIANCE, COVARIANCE = 0.3, 0.4, 0.1

pytestmark = pytest.mark.parametrize("option", OPTIONS)


@pytest.fixture(scope="module")
def make(compose):
    """Return a function that makes the objective for data of a number of levels."""

    @functools.cache
    def make(option, levels=None):
        return build(compose(f"objective={option}", f"space.levels={levels or 'null'}"), "objective")

    return make


@pytest.fixture
def objective(make, option):
    """Return the objective for continuous data, so that everything is Gaussian."""
    return make(option)


def cases(objective):
    """Return schedules that the objective is defined on, with times."""
    continuous = [] if "grid" in objective.requires else [(schedule, INSIDE) for schedule in CONTINUOUS]
    return [(GRID, T), *continuous]


class Shifted(Denoiser):
    """The exact denoiser of correlated Gaussian numbers, plus a shift of its output."""

    def __init__(self, schedule, prediction, dim=9, mix=0.0, dtype=torch.float64):
        super().__init__(schedule, prediction)
        covariance = (VARIANCE - COVARIANCE) * torch.eye(dim, dtype=dtype) + COVARIANCE
        self.exact = GaussianDenoiser(schedule, torch.full((dim,), MEAN, dtype=dtype), covariance)
        self.shift = torch.nn.Parameter(torch.zeros((), dtype=dtype))
        self.mix, self.calls = mix, 0

    def forward(self, x_t, t, cond=None):
        self.calls += 1
        alpha, sigma = (expand_to(value, x_t) for value in self.schedule(t))
        exact = self.exact(x_t, t)
        output = self.prediction.target(exact.x0, exact.eps, alpha, sigma) + self.shift
        x0, eps = (convert(output, x_t, alpha, sigma) for convert in (self.prediction.x0, self.prediction.eps))
        return Denoised(x0, eps, self.mix)

    def shifted(self, value):
        self.shift.data.fill_(value)
        return self


def pictures(count=4, dtype=torch.float64):
    return (torch.randn(count, 1, 3, 3, dtype=torch.float64) * VARIANCE**0.5 + MEAN).to(dtype)


def nodes():
    """Return x_0 and eps (9, 1) and weights (9,), whose weighted sums are expectations of quadratics."""
    z, weight = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(3))
    weight = weight / weight.sum()
    x_0, eps = torch.cartesian_prod(MEAN + VARIANCE**0.5 * z, z).T[..., None]
    return x_0, eps, torch.cartesian_prod(weight, weight).prod(1)


def expected(objective, denoiser, t):
    x_0, eps, weight = nodes()
    return (weight * objective(denoiser, x_0, None, t.expand(len(x_0)), eps)).sum()


def test_losses_are_one_number_a_sample(objective):
    rows = [slice(row, row + 1) for row in range(4)]
    for schedule, t in cases(objective):
        for kind in KINDS:
            denoiser, x_0, eps = Shifted(schedule, kind()).shifted(0.2), pictures(), torch.randn(4, 1, 3, 3).double()
            losses = objective(denoiser, x_0, None, t, eps)
            alone = torch.cat([objective(denoiser, x_0[row], None, t[row], eps[row]) for row in rows])
            assert losses.shape == (4,)
            assert losses.isfinite().all()
            torch.testing.assert_close(losses, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_posterior_mean_is_the_minimum_at_every_time(objective, kind):
    for schedule, times in cases(objective):
        for t in times:
            denoiser = Shifted(schedule, kind(), dim=1)
            least = expected(objective, denoiser, t)
            (flat,) = torch.autograd.grad(least, denoiser.shift)
            for shift in (-0.5, 0.5):
                loss = expected(objective, denoiser.shifted(shift), t)
                (slope,) = torch.autograd.grad(loss, denoiser.shift)
                assert loss > least
                assert slope * shift > 0
                assert flat.abs() < 1e-9 * slope.abs()


class Plain:
    """A denoiser that has a schedule and a call but nothing else."""

    def __init__(self, denoiser):
        self.schedule, self.denoiser = denoiser.schedule, denoiser

    def __call__(self, x_t, t, cond):
        return self.denoiser(x_t, t, cond)


def test_the_network_is_called_once(objective):
    """So it is for a plain object too, which predicts eps."""
    for schedule, t in cases(objective):
        denoiser, x_0, eps = Shifted(schedule, Eps()).shifted(0.2), pictures(), torch.randn(4, 1, 3, 3).double()
        losses = objective(denoiser, x_0, None, t, eps)
        assert denoiser.calls == 1
        torch.testing.assert_close(objective(Plain(denoiser), x_0, None, t, eps), losses, rtol=1e-12, atol=1e-12)
        assert denoiser.calls == 2


def test_without_gradients_the_loss_is_the_same_number(objective):
    for schedule, t in cases(objective):
        denoiser, x_0, eps = Shifted(schedule, V()).shifted(0.2), pictures(), torch.randn(4, 1, 3, 3).double()
        losses = objective(denoiser, x_0, None, t, eps)
        with torch.no_grad():
            silent = objective(denoiser, x_0, None, t, eps)
        assert losses.requires_grad
        assert not silent.requires_grad
        torch.testing.assert_close(silent, losses.detach(), rtol=1e-12, atol=1e-12)


def test_float32_loses_no_more_than_its_rounding(objective):
    for schedule, t in cases(objective):
        x_0, eps = pictures().float().double(), torch.randn(4, 1, 3, 3).double()
        exact = objective(Shifted(schedule, V()).shifted(0.2), x_0, None, t, eps)
        single = Shifted(schedule, V(), dtype=torch.float32).shifted(0.2)
        losses = objective(single, x_0.float(), None, t.float(), eps.float())
        assert losses.dtype == torch.float32
        torch.testing.assert_close(losses.double(), exact, rtol=1e-3, atol=1e-4)


def test_it_follows_the_device_of_the_data(objective):
    for schedule, t in cases(objective):
        denoiser = Shifted(schedule, V())
        denoiser.exact = None
        denoiser.forward = lambda x_t, t, cond=None, scale=denoiser.shift: Denoised(x_t * scale.to(x_t), x_t * 0.5)
        x = torch.empty(4, 1, 3, 3, device="meta")
        assert objective(denoiser, x, None, t.to("meta"), x).device.type == "meta"


def test_only_one_that_trains_the_variance_has_a_gradient_for_it(objective):
    """It has one at every time of the grid, including that of the decoder."""
    mix = torch.full((4, 1, 3, 3), 0.4, dtype=torch.float64, requires_grad=True)
    losses = objective(Shifted(GRID, Eps(), mix=mix), pictures(), None, T, torch.randn(4, 1, 3, 3).double())
    (gradient,) = torch.autograd.grad(losses.sum(), mix, allow_unused=True)
    if "learned_variance" in objective.supports:
        assert (gradient != 0).all()
    else:
        assert gradient is None


def test_a_bound_averages_to_the_bound_of_the_chain(make, option, objective):
    """The average is over all times of the grid, with the same noise.

    It holds for any variance, and for data with levels or without.
    """
    if "bound" not in objective.provides:
        pytest.skip("is no bound")
    schedule, noise = Linear(20), Noise(0, torch.arange(3))
    x_0, mix = (pictures(3) * 8).round().clamp(-8, 8) / 8, torch.rand(3, 1, 3, 3).double()
    times = torch.arange(20, -1, -1, dtype=torch.float64) / 20
    for levels in (None, 17):
        objective = make(option, levels)
        for variance in (0.0, 1.0, mix):
            denoiser = Shifted(schedule, V(), mix=variance).shifted(0.1)
            bound = variational_bound(denoiser, x_0, times, noise, levels)
            terms = [
                objective(denoiser, x_0, None, times[-k - 1].expand(3), noise.at(k - 1).like(x_0, Stream.VALIDATION))
                for k in range(1, 21)
            ]
            torch.testing.assert_close(torch.stack(terms).mean(0), bound.terms.sum(1), rtol=1e-10, atol=0)


def test_a_bound_does_not_depend_on_what_is_predicted(objective):
    if "bound" not in objective.provides:
        pytest.skip("is no bound")
    for schedule, t in cases(objective):
        x_0, eps = pictures(), torch.randn(4, 1, 3, 3).double()
        losses = torch.stack([objective(Shifted(schedule, kind()), x_0, None, t, eps) for kind in KINDS])
        torch.testing.assert_close(losses, losses[:1].expand_as(losses), rtol=1e-9, atol=1e-9)


def test_one_that_trains_the_schedule_has_its_derivatives(objective):
    """Those of the losses at given (x_0, t, eps) agree with central differences in every parameter."""
    if "learned_schedule" not in objective.supports:
        pytest.skip("does not train the schedule")
    schedule = Learned(width=3).double()
    x_0, eps = pictures(), torch.randn(4, 1, 3, 3).double()
    coefficients = torch.tensor([1.0, -0.3, 0.7, 0.2], dtype=torch.float64)

    def total():
        return (objective(Shifted(schedule, V()), x_0, None, INSIDE, eps) * coefficients).sum()

    parameters = dict(schedule.named_parameters())
    gradients = torch.autograd.grad(total(), parameters.values())
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        numeric, flat = torch.zeros_like(gradient), parameter.data.view(-1)
        for i, value in enumerate(flat.tolist()):
            ends = []
            for step in (1e-5, -1e-5):
                flat[i] = value + step
                ends.append(total().item())
            flat[i] = value
            numeric.view(-1)[i] = (ends[0] - ends[1]) / 2e-5
        torch.testing.assert_close(
            gradient, numeric, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_rule_keeps_it_to_its_schedules(compose, option, objective):
    cfg = compose(f"objective={option}")
    for schedule in (GRID, *CONTINUOUS):
        refused = unprovided(
            cfg, parts_of(objective=objective, schedule=schedule, noise=INDEPENDENT, time_sampling=Uniform())
        )
        assert (refused is not None) == ("grid" in objective.requires and schedule.num_steps is None)
