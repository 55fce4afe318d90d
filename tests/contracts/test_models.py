"""Tests of every option of conf/model: losses depend on seeds and positions alone, samples on seeds and indices."""

import functools
from pathlib import Path

import pytest
import torch
import yaml
from slower import crossed, some

from diffsweep.configuration.build import build_data, build_model
from diffsweep.configuration.check import locate
from diffsweep.configuration.sizes import instantiated
from diffsweep.diffusion import BatchNoise
from diffsweep.models import DiffusionModel, PreferenceModel, Student
from diffsweep.models.borrowed import Borrowed
from diffsweep.precision import AS_IS, Precision
from diffsweep.samplers import DDIM

CONF = Path(__file__).parents[2] / "conf/model"
OPTIONS = sorted(path.stem for path in CONF.glob("*.yaml"))


def kind(option):
    """Return the class that an option names, or that of the option that it starts from."""
    content = yaml.safe_load((CONF / f"{option}.yaml").read_text())
    named = content.get("_target_") or content.get("model", {}).get("_target_")
    if named:
        return locate(named)
    (start,) = [entry for entry in content["defaults"] if isinstance(entry, str) and entry != "_self_"]
    return kind(start.rpartition("/")[2].partition("@")[0])


every_model = pytest.mark.parametrize("option", OPTIONS)
GENERATING = [o for o in OPTIONS if issubclass(kind(o), DiffusionModel)]
what_generates = pytest.mark.parametrize("option", GENERATING)


@pytest.fixture
def make(compose, option, monkeypatch):
    class StandIn:  # for the classifier that guidance requires, and for the first stage of latent diffusion
        @staticmethod
        def log_prob(x_t, t):
            return torch.cat([x_t.flatten(1)[:, :9], 0.5 * x_t.flatten(1)[:, -1:]], 1).log_softmax(1)

    monkeypatch.setattr("diffsweep.configuration.loading.trained", lambda **_: StandIn)
    small = ["backbone.channels=8", "sampler.steps=3"]
    if "network" in compose(f"model={option}").autoencoder:
        small.append("autoencoder.network.channels=8")
        torch.manual_seed(0)
        StandIn.autoencoder = instantiated(compose(f"model={option}", *small).autoencoder, "network")()

    if "base" in compose(f"model={option}").cascade:  # the lower stage
        lower = build_model(compose("autoencoder=low_res", *small)).eval()
        monkeypatch.setattr("diffsweep.configuration.loading.trained", lambda **_: lower)
    if "base" in (teacher := compose(f"model={option}").teacher):
        tutor = build_model(compose(*teacher.base.train, *small)).eval()
        monkeypatch.setattr("diffsweep.configuration.loading.trained", lambda **_: tutor)

    def make(*overrides):
        model = build_model(compose(f"model={option}", *small, *overrides))
        for parameter in model.parameters():
            if parameter.requires_grad and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        if isinstance(model, PreferenceModel):  # its reference has other weights
            base = build_model(compose("model=ddpm", *small, "seed=5")).eval()
            model.adaptation = Borrowed(lambda: base)
        return model

    return make


@pytest.fixture(scope="module")
def data(compose):
    """``data(option)`` returns the dataset of a model, built once."""
    return functools.cache(lambda option: build_data(compose(f"model={option}")))


@pytest.fixture
def batch_at(data, option):
    """``batch_at(positions)`` returns training samples at positions of the stream, in the order of the data."""
    samples = data(option).split("train")

    def batch_at(positions):
        positions = torch.as_tensor(positions)
        batch = {**samples[positions % len(samples)], "position": positions}
        if issubclass(kind(option), PreferenceModel):  # pairs of neighbours
            pairs = torch.stack([batch["x"], batch["x"].roll(1, 0)], 1)
            batch |= {"compared": pairs, "score": pairs.mean((2, 3, 4)), "desirable": torch.ones(len(pairs), 2).bool()}
        return batch

    return batch_at


@pytest.fixture
def draw(data, option):
    """``draw(model, indices, seed)`` returns samples for the requests of these indices, also of held-out data."""
    held_out = data(option).split("val")

    def draw(model, indices, seed, **keywords):
        return model.sample(indices, seed, model.request(indices, held_out)[1], **keywords)

    return draw


@every_model
def test_initial_weights_depend_on_the_seed_alone(make):
    states = [torch.cat([p.flatten() for p in make(f"seed={seed}").parameters()]) for seed in (0, 0, 1)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@every_model
def test_the_loss_of_a_batch_is_the_mean_over_its_positions(make, batch_at):
    """The noise of a sample depends on its position alone, not on its batch. (Stratified times depend on the batch.)"""
    model = make("time_sampling=uniform").double().eval()
    if isinstance(model, Student) and model.teacher is not None:
        model.teacher.base.double()
    if model.adaptation is not None:
        model.adaptation.base.double()
    batch = batch_at(range(6))
    double = {**batch, **{name: batch[name].double() for name in ("x", "compared") if name in batch}}
    whole = model.training_step(double, 0)
    rows = [
        model.training_step({name: part[i : i + 1] for name, part in double.items()}, 7) for i in (3, 1, 0, 5, 2, 4)
    ]
    torch.testing.assert_close(torch.stack(rows).mean(), whole, rtol=1e-6, atol=0)


# A classifier and a vector-quantised autoencoder learn from clean data, without noise.
@pytest.mark.parametrize("option", [o for o in OPTIONS if o not in ("classifier", "autoencoder_vq")])
def test_the_noise_of_a_sample_depends_on_position_and_seed(make, batch_at):
    model, batch = make().eval(), batch_at(range(6))
    later = {**batch, "position": batch["position"] + 60_000}  # the same images in a later epoch
    losses = [model.training_step(b, 0).item() for b in (batch, later)]
    model.batch_noise = BatchNoise(1)
    losses.append(model.training_step(batch, 0).item())
    assert len(set(losses)) == 3


@what_generates
def test_samples_depend_on_seed_and_index_alone(make, draw):
    model = make().eval()
    whole = draw(model, torch.arange(6), seed=4)
    torch.testing.assert_close(draw(model, torch.tensor([5, 0, 3]), seed=4), whole[[5, 0, 3]], rtol=0, atol=1e-3)
    assert (draw(model, torch.arange(6), seed=5) - whole).abs().max() > 0.01
    assert not whole.requires_grad


@pytest.mark.parametrize(("option", "dtype"), crossed(GENERATING, [torch.float64, torch.bfloat16]))
def test_samples_follow_the_precision_of_the_weights(make, draw, dtype):
    """These are the weights of trainer.precision=64-true and bf16-true."""
    model = make().eval()
    single = draw(model, torch.arange(4), seed=0)
    model.compute_in(Precision(weights=dtype))
    wide = draw(model, torch.arange(4), seed=0)
    model.compute_in(AS_IS)
    other = draw(model, torch.arange(4), seed=0)  # as by model.to(dtype) alone
    assert (wide.dtype, other.dtype) == (torch.promote_types(dtype, torch.float32), dtype)
    for drawn in (wide, other):
        assert (drawn.float() - single).abs().mean() < (1e-3 if dtype == torch.float64 else 0.1)


@pytest.mark.parametrize("option", some(sorted(GENERATING, key=lambda o: o != "guidance_distillation"), 1))
def test_losses_of_mixed_precision_are_near_those_of_float32(make, batch_at):
    """A consistency loss is one of differences between neighbouring times, of which bfloat16 keeps fewer digits."""
    model, batch = make().eval(), batch_at(range(8))
    with torch.no_grad():
        exact = model.losses(batch)[0]
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model.losses(batch)[0]
    assert mixed.dtype == torch.float32
    assert (mixed - exact).norm() < (0.3 if "consistency" in model.provides else 0.04) * exact.norm()


@what_generates
def test_another_sampler_can_be_used(make, draw):
    model, steps = make().eval(), []
    x = draw(model, torch.arange(2), 0, sampler=DDIM(steps=5), callback=lambda step, t, denoised, x: steps.append(step))
    assert steps == [0, 1, 2, 3, 4]
    assert not torch.equal(x, draw(model, torch.arange(2), 0, sampler=DDIM(steps=4)))
