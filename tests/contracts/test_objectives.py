"""What every option of conf/objective promises."""

from pathlib import Path

import pytest
import torch

from diffsweep.diffusion import X0, Eps, NetworkDenoiser, V
from diffsweep.runs.build import build
from diffsweep.schedules import Linear

OPTIONS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/objective").glob("*.yaml"))
T = torch.tensor([0.01, 0.3, 0.6, 1.0], dtype=torch.float64)

pytestmark = [pytest.mark.parametrize("option", OPTIONS), pytest.mark.parametrize("kind", [Eps, X0, V])]


@pytest.fixture
def objective(compose, option):
    return build(compose(f"objective={option}"), "objective")


class Shifted(torch.nn.Module):
    """A network that says the target of known (x_0, eps), plus a shift."""

    def __init__(self, target):
        super().__init__()
        self.target = target
        self.shift = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, c_noise, cond):
        return self.target + self.shift


@pytest.fixture
def case(kind):
    schedule, x_0, eps = Linear(100), torch.randn(4, 1, 3, 3).double(), torch.randn(4, 1, 3, 3).double()
    alpha, sigma = (value[:, None, None, None] for value in schedule(T))
    return NetworkDenoiser(Shifted(kind().target(x_0, eps, alpha, sigma)), schedule, kind()), x_0, eps


def test_losses_are_one_number_a_sample(objective, case):
    denoiser, x_0, eps = case
    denoiser.backbone.shift.data.fill_(0.2)
    losses = objective(denoiser, x_0, None, T, eps)
    alone = torch.cat(
        [
            objective(_of_row(denoiser, row), x_0[row : row + 1], None, T[row : row + 1], eps[row : row + 1])
            for row in range(4)
        ]
    )
    assert losses.shape == (4,)
    torch.testing.assert_close(losses, alone)


def test_the_target_is_the_minimum(objective, case):
    denoiser, x_0, eps = case
    denoiser.backbone.shift.data.fill_(1e-4)  # a distance such as l1 has no derivative at 0
    least = objective(denoiser, x_0, None, T, eps)
    for shift in (-0.5, 0.5):
        denoiser.backbone.shift.data.fill_(shift)
        losses = objective(denoiser, x_0, None, T, eps)
        assert (losses > least).all()
        (gradient,) = torch.autograd.grad(losses.mean(), denoiser.backbone.shift)
        assert gradient * shift > 0


def _of_row(denoiser, row):
    network = Shifted(denoiser.backbone.target[row : row + 1])
    network.shift = denoiser.backbone.shift
    return NetworkDenoiser(network, denoiser.schedule, denoiser.prediction)
