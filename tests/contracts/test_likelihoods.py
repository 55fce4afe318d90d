"""Every option of conf/likelihood keeps the contract of likelihoods."""

import json
import math
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class

from diffsweep.configuration.build import build, build_likelihood
from diffsweep.configuration.signatures import keywords_of
from diffsweep.diffusion import Eps, NetworkDenoiser, V
from diffsweep.errors import UserError
from diffsweep.metrics import Likelihood
from diffsweep.schedules import VE, Cosine, Flow, Linear

FILES = sorted((Path(__file__).parents[2] / "conf/likelihood").glob("*.yaml"))
OPTIONS = [path.stem for path in FILES if "_target_" in path.read_text()]

each_option = pytest.mark.parametrize("option", OPTIONS)


def test_none_measures_nothing_and_the_others_are_built(compose):
    for path in FILES:
        likelihood = build_likelihood(compose(f"likelihood={path.stem}"))
        assert isinstance(likelihood, Likelihood) if path.stem in OPTIONS else likelihood is None


@pytest.fixture
def settings(compose, option):
    """Return the keys of the option's file."""
    return dict(compose(f"likelihood={option}").likelihood)


@pytest.fixture
def make(settings):
    """Return a function that makes the option's likelihood with other settings: ``make(seed=1)``."""
    given = dict(settings)
    target = get_class(given.pop("_target_"))
    return lambda **changes: target(**{**given, **changes})


class Net(torch.nn.Module):
    """A differentiable, smooth network for any shape, with two heads where the variance is learned."""

    def __init__(self, heads=1):
        super().__init__()
        self.heads = heads

    def forward(self, x, c_noise, cond):
        return torch.cat([torch.tanh(x) * 0.3] * self.heads, dim=1)


def denoiser(schedule=None, prediction=None):
    prediction = prediction if prediction is not None else V()
    return NetworkDenoiser(Net(prediction.heads), schedule if schedule is not None else Linear(10), prediction)


def samples(count=12):
    torch.manual_seed(0)
    return {"x": torch.randint(17, (count, 1, 2, 2)) / 8 - 1}


def encode(batch):
    return batch["x"].double(), None


def close(one, other, rel=1e-3):
    return one == pytest.approx(other, rel=rel)


@each_option
@pytest.mark.parametrize("levels", [None, 17])
@pytest.mark.parametrize(
    "schedule",
    [Linear(10), Cosine(7, zero_terminal_snr=True), Flow(), VE()],
    ids=["linear", "zero terminal", "flow", "ve"],
)
def test_numbers_are_finite_with_their_standard_errors(make, schedule, levels):
    likelihood = make()
    numbers, curve = likelihood(denoiser(schedule), samples(), encode, levels)
    assert likelihood.name in numbers
    for name, value in numbers.items():
        assert math.isfinite(value)
        assert isinstance(value, float)
        assert name.endswith("_se") or f"{name}_se" in numbers
    assert curve is None or torch.isfinite(curve).all()


@each_option
@pytest.mark.parametrize("variance", ["fixed_large", "learned_range"])
def test_every_variance_can_be_measured(make, variance):
    numbers, _ = make()(denoiser(prediction=Eps(variance)), samples(), encode, 17)
    assert all(math.isfinite(value) for value in numbers.values())


@each_option
def test_float32_can_be_measured(make):
    single, _ = make()(denoiser(), samples(), lambda batch: (batch["x"].float(), None), 17)
    double, _ = make()(denoiser(), samples(), encode, 17)
    assert close(single, double, rel=1e-2)


@each_option
def test_the_batch_size_does_not_matter(make):
    results = [make(batch_size=batch_size)(denoiser(), samples(), encode, 17)[0] for batch_size in (1, 5, 512)]
    assert close(results[0], results[2])
    assert close(results[1], results[2])


@each_option
def test_it_gives_the_same_twice_for_any_state_of_torchs_generator(make):
    likelihood, results = make(), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        data = samples()
        torch.manual_seed(seed)
        results.append(likelihood(denoiser(), data, encode, 17)[0])
    assert results[0] == results[1]


@each_option
def test_torchs_generator_is_left_alone(make):
    torch.manual_seed(5)
    data = samples()
    before = torch.get_rng_state()
    make()(denoiser(), data, encode, 17)
    assert torch.equal(torch.get_rng_state(), before)


@each_option
def test_no_gradients_are_left_behind(make):
    model = denoiser()
    model.backbone.weight = torch.nn.Parameter(torch.ones(()))
    make()(model, samples(), encode, 17)
    assert model.backbone.weight.grad is None


@each_option
def test_the_progress_moves_and_the_count_is_right(make):
    calls, likelihood = [], make(batch_size=5)
    data = samples()
    likelihood(denoiser(), data, encode, 17, lambda: calls.append(None))
    expected = likelihood.calls(Linear(10), likelihood.count(data))
    assert len(calls) == expected if expected is not None else len(calls) > 0


@each_option
def test_the_protocol_can_be_written_down(make):
    protocol = make().protocol()
    assert json.loads(json.dumps(protocol)) == protocol
    assert make(num_samples=5).protocol() != protocol
    assert make(split="train").protocol() != protocol
    assert make(batch_size=7).protocol() == protocol


@each_option
def test_its_keys_are_its_arguments(settings):
    assert {"split", "num_samples", "batch_size", "seed"} <= set(settings)
    assert set(settings) - {"_target_"} == set(keywords_of(get_class(settings["_target_"]))[0])


@each_option
@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"num_samples": 1}])
def test_bad_values_are_refused(make, bad):
    with pytest.raises(ValueError, match="likelihood needs"):
        make(**bad)


@each_option
def test_bad_values_of_a_configuration_are_the_users(compose, option, settings):
    with pytest.raises(UserError, match="likelihood needs batch_size of at least 1"):
        build(compose(f"likelihood={option}", "likelihood.batch_size=0"), "likelihood")
