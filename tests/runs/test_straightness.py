"""The straightness of a flow is measured with its samples: 0 of straight paths, a closed form of Gaussian data."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from diffsweep.comparison.differences import protocol_of
from diffsweep.comparison.records import read_run
from diffsweep.configuration.build import build_data, build_model
from diffsweep.diffusion import Denoised, Denoiser, Flow, GaussianDenoiser, Stream
from diffsweep.runs.evaluation import PATHS, measure, measure_straightness
from diffsweep.schedules import Flow as FlowSchedule

MEAN, VARIANCE, NUMBERS = 0.3, 0.25, 64
SMALL = ("model=flow", "backbone.channels=8")


class Straight(Denoiser):
    """The flow between the pairs x_0 = m + s eps, whose paths are lines."""

    def __init__(self):
        super().__init__(FlowSchedule(), Flow())

    def forward(self, x_t, t, cond=None):
        alpha, sigma = self.levels(x_t, t)
        eps = (x_t - alpha * MEAN) / (alpha * VARIANCE**0.5 + sigma)
        return Denoised(MEAN + VARIANCE**0.5 * eps, eps, 0.0)


def gaussian():
    mean = torch.full((NUMBERS,), MEAN).double()
    return GaussianDenoiser(FlowSchedule(), mean, VARIANCE * torch.eye(NUMBERS).double())


def integral(v):
    """Return the integral of (1 - sqrt(v) - r'(t))^2, with paths m + r(t) z and r^2 = (1 - t)^2 v + t^2."""
    t = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    rate = (t - (1 - t) * v) / ((1 - t) ** 2 * v + t**2).sqrt()
    return float(torch.trapezoid((1 - v**0.5 - rate) ** 2, t))


def with_denoiser(cfg, denoiser, dtype):
    """Return the model of a configuration with an exact denoiser in the place of its network."""
    model = build_model(cfg).eval()
    model.denoiser, model.weight = denoiser, torch.nn.Parameter(torch.zeros(1, dtype=dtype))
    return model


def test_the_straightness_of_gaussian_data_is_its_closed_form(compose):
    model = with_denoiser(compose(*SMALL), gaussian(), torch.float64)
    data = SimpleNamespace(deferred=lambda split: None)
    options = SimpleNamespace(num_samples=1000, batch_size=100)
    numbers, protocol = measure_straightness(model, data, options, 3)
    assert protocol["paths"] == PATHS
    eps = model.noise_of(torch.arange(PATHS), 3).normal(1, 8, 8, stream=Stream.PRIOR, dtype=torch.float64)
    each = integral(VARIANCE) * eps.square().flatten(1).sum(1)
    assert numbers["straightness"] == pytest.approx(float(each.mean()), rel=0.01)
    assert numbers["straightness_se"] == pytest.approx(float(each.std()) / math.sqrt(PATHS), rel=0.01)
    assert numbers["straightness"] == pytest.approx(NUMBERS * integral(VARIANCE), abs=4 * numbers["straightness_se"])


@pytest.mark.parametrize(("words", "expected"), [(("metrics.num_samples=16",), True), (("schedule=vp",), False)])
def test_an_evaluation_has_the_straightness_of_a_flow_alone(compose, tmp_path, words, expected):
    cfg = compose(*SMALL, "prediction=v", "metrics.num_samples=16", "sampler.steps=1", "likelihood=none", *words)
    model = with_denoiser(cfg, Straight(), torch.float32) if expected else build_model(cfg).eval()
    measure(cfg, model, build_data(cfg), tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert ("straightness" in content["metrics"]) == ("straightness_protocol" in content) == expected
    if expected:
        assert content["metrics"]["straightness"] == pytest.approx(0, abs=1e-8)
        assert content["straightness_protocol"]["paths"] == 16
        record = read_run(tmp_path)
        assert protocol_of(record, "straightness") == content["straightness_protocol"]
        assert protocol_of(record, "fid") == content["protocol"]
