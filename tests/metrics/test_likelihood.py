"""Bits per dimension of a split: means, standard errors and the curve, compared with the values of each sample."""

import json
import math

import numpy as np
import pytest
import torch

from diffsweep.datasets import InMemory
from diffsweep.diffusion import Denoised, Denoiser, GaussianDenoiser, Noise, ode_log_likelihood, variational_bound
from diffsweep.diffusion.bound import chain_times
from diffsweep.diffusion.likelihood import bits_per_dim, dequantised
from diffsweep.metrics import BoundLikelihood, ODELikelihood
from diffsweep.schedules import VE, Cosine, Flow, Linear

KINDS = {
    "bound": BoundLikelihood,
    "ode": lambda **settings: ODELikelihood(tolerance=1e-7, **settings),
    "exact ode": lambda **settings: ODELikelihood(divergence="exact", tolerance=1e-7, **settings),
}


def pictures(count=23, levels=17):
    """Return images with levels, in float32, with labels."""
    torch.manual_seed(0)
    x = torch.randint(levels, (count, 1, 2, 2)) * (2 / (levels - 1)) - 1
    return InMemory({"x": x.float(), "label": torch.arange(count)})


def encode(batch):
    return batch["x"].double(), None


def model(schedule=None):
    covariance = 0.3 * torch.eye(4, dtype=torch.float64) + 0.1
    return GaussianDenoiser(schedule if schedule is not None else Linear(20), torch.zeros(4).double(), covariance)


def assert_summary_of(values, numbers, name):
    """Check the mean, and the standard error: the standard deviation (with n - 1) over the root of n."""
    values = values.double().numpy()
    assert numbers[name] == pytest.approx(np.mean(values), rel=1e-12)
    assert numbers[f"{name}_se"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)), rel=1e-12)


@pytest.mark.parametrize("levels", [None, 17])
@pytest.mark.parametrize("schedule", [Linear(20), VE()], ids=["linear", "ve"])
def test_the_bound_is_reported_as_mean_standard_error_and_curve(schedule, levels):
    denoiser, samples = model(schedule), pictures()
    numbers, curve = BoundLikelihood(steps=8, seed=3)(denoiser, samples, encode, levels)
    times, noise = chain_times(schedule, 8), Noise(3, torch.arange(23))
    bound = variational_bound(denoiser, encode(samples)[0], times, noise, levels, clip=levels is not None)
    assert set(numbers) == {"bits_per_dim", "bits_per_dim_se", "bits_per_dim_prior", "bits_per_dim_prior_se"}
    assert_summary_of(bound.total, numbers, "bits_per_dim")
    assert_summary_of(bound.prior, numbers, "bits_per_dim_prior")
    torch.testing.assert_close(curve, bound.terms.mean(0), rtol=1e-12, atol=1e-15)
    assert curve.sum().item() + numbers["bits_per_dim_prior"] == pytest.approx(numbers["bits_per_dim"], rel=1e-12)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
@pytest.mark.parametrize("levels", [None, 17])
def test_the_ode_is_reported_as_mean_and_standard_error(divergence, levels):
    denoiser, samples = model(Flow()), pictures()
    likelihood = ODELikelihood(divergence=divergence, tolerance=1e-5, seed=3)
    numbers, curve = likelihood(denoiser, samples, encode, levels)
    (x, _), noise = encode(samples), Noise(3, torch.arange(23))
    x = x if levels is None else dequantised(x, levels, noise)
    nats = ode_log_likelihood(denoiser, x, None, divergence, noise, 1e-5).nats
    assert curve is None
    assert set(numbers) == {"bits_per_dim_ode", "bits_per_dim_ode_se"}
    assert_summary_of(bits_per_dim(nats, 4, levels), numbers, "bits_per_dim_ode")


@pytest.mark.parametrize("levels", [None, 17])
@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_does_not_depend_on_the_batch_size(kind, levels):
    """The adaptive solver chooses its steps for a batch, so its values agree to its tolerance."""
    results = []
    for batch_size in (7, 512):
        numbers, curve = KINDS[kind](batch_size=batch_size)(model(), pictures(), encode, levels)
        results.append((numbers, None if curve is None else curve.tolist()))
    (one, one_curve), (other, other_curve) = results
    assert one == pytest.approx(other, rel=1e-12 if kind == "bound" else 1e-5)
    assert one_curve == (None if other_curve is None else pytest.approx(other_curve, rel=1e-12))


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_num_samples_samples_are_measured(kind):
    samples = pictures()
    first = InMemory(samples[torch.arange(9)])
    some, _ = KINDS[kind](num_samples=9)(model(), samples, encode, 17)
    all_of_nine, _ = KINDS[kind]()(model(), first, encode, 17)
    more, _ = KINDS[kind](num_samples=1000)(model(), first, encode, 17)
    assert some == all_of_nine == more


@pytest.mark.parametrize("levels", [None, 17])
@pytest.mark.parametrize("kind", ["bound", "ode"])
def test_the_seed_determines_the_estimate(kind, levels):
    results = [KINDS[kind](seed=seed)(model(), pictures(), encode, levels)[0] for seed in (0, 0, 1)]
    assert results[0] == results[1]
    assert results[0] != results[2]


@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_has_its_own_condition(kind):
    """``encode`` gets the whole batch, and the denoiser the conditions of the same rows."""
    seen = []

    class Keeping(Denoiser):
        def forward(self, x_t, t, cond=None):
            seen.append(tuple(cond.tolist()))
            x0, eps, _ = model(self.schedule)(x_t, t)
            return Denoised(x0, eps)

    KINDS[kind](batch_size=4, num_samples=10)(
        Keeping(Linear(3)), pictures(), lambda batch: (batch["x"].double(), batch["label"]), None
    )
    assert sorted(set(seen)) == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]


@pytest.mark.parametrize("kind", KINDS)
def test_progress_is_called_once_for_each_of_the_announced_network_calls(kind):
    calls, seen = [], []

    class Counting(Denoiser):
        def forward(self, x_t, t, cond=None):
            seen.append(t)
            return model(self.schedule)(x_t, t)

    likelihood, samples = KINDS[kind](batch_size=10, num_samples=21), pictures()
    likelihood(Counting(Linear(6)), samples, encode, 17, lambda: calls.append(None))
    assert len(calls) == len(seen)
    assert likelihood.calls(Linear(6), likelihood.count(samples)) == (18 if kind == "bound" else None)
    assert likelihood.count(samples) == 21


@pytest.mark.parametrize(("schedule", "steps", "calls"), [(VE(), 5, 5), (Flow(), 5, 5), (Cosine(9), None, 9)])
def test_the_bound_takes_one_call_for_each_step_and_batch(schedule, steps, calls):
    assert BoundLikelihood(steps=steps, batch_size=8).calls(schedule, 17) == 3 * calls


def test_the_predicted_x0_is_clipped_only_if_the_data_have_levels():
    class Wild(Denoiser):
        def forward(self, x_t, t, cond=None):
            return Denoised(3 * x_t, x_t)

    def bits(clip, levels):
        return BoundLikelihood(clip=clip)(Wild(Linear(5)), pictures(), encode, levels)[0]["bits_per_dim"]

    assert bits(True, 17) < bits(False, 17)
    assert bits(True, None) == bits(False, None)


@pytest.mark.parametrize("kind", KINDS)
def test_better_models_need_fewer_bits(kind):
    truth = model(VE())
    samples = InMemory({"x": truth.sample(200).reshape(-1, 1, 2, 2)})
    wrong = GaussianDenoiser(truth.schedule, torch.full((4,), 0.5).double(), 0.3 * torch.eye(4).double())
    settings = {"steps": 100} if kind == "bound" else {}
    (true, _), (worse, _) = (KINDS[kind](**settings)(denoiser, samples, encode, None) for denoiser in (truth, wrong))
    name = KINDS[kind]().name
    assert true[name] + 3 * true[f"{name}_se"] < worse[name]


def test_the_bound_is_above_the_bits_of_the_ode():
    """In the mean over samples of the model, which are continuous."""
    denoiser = model(VE())
    samples = InMemory({"x": denoiser.sample(300).reshape(-1, 1, 2, 2)})
    bound, _ = BoundLikelihood(steps=400)(denoiser, samples, encode, None)
    ode, _ = ODELikelihood(divergence="exact", tolerance=1e-5)(denoiser, samples, encode, None)
    assert ode["bits_per_dim_ode"] < bound["bits_per_dim"] < ode["bits_per_dim_ode"] + 0.15


@pytest.mark.parametrize("kind", KINDS)
def test_the_protocol_has_all_settings_that_change_the_estimate(kind):
    """Each setting that changes the estimate changes the protocol; the batch size does not."""

    def protocol(**settings):
        return json.dumps(KINDS[kind](**settings).protocol(), sort_keys=True)

    assert protocol() == protocol(batch_size=3)
    for change in ({"split": "train"}, {"num_samples": 10}, {"seed": 1}):
        assert protocol(**change) != protocol()
    assert json.dumps(ODELikelihood().protocol()) != json.dumps(ODELikelihood(divergence="exact").protocol())
    assert json.dumps(ODELikelihood().protocol()) != json.dumps(ODELikelihood(tolerance=1e-6).protocol())
    assert json.dumps(BoundLikelihood().protocol()) != json.dumps(BoundLikelihood(steps=10).protocol())
    assert json.dumps(BoundLikelihood().protocol()) != json.dumps(BoundLikelihood(clip=False).protocol())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: BoundLikelihood(batch_size=0), "batch_size of at least 1"),
        (lambda: ODELikelihood(num_samples=1), "num_samples of at least 2"),
        (lambda: BoundLikelihood(steps=0), r"likelihood\.steps must be at least 1"),
        (lambda: ODELikelihood(tolerance=0.0), r"likelihood\.tolerance must be positive"),
    ],
)
def test_bad_values_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
