"""What every option of conf/model promises: its losses, and samples where it draws any, are functions of seeds and positions."""

from pathlib import Path

import pytest
import torch
import yaml

from diffsweep.configuration.build import build_data, build_model, instantiated
from diffsweep.configuration.check import locate
from diffsweep.diffusion import BatchNoise
from diffsweep.models import DiffusionModel
from diffsweep.samplers import DDIM

CONF = Path(__file__).parents[2] / "conf/model"
OPTIONS = sorted(path.stem for path in CONF.glob("*.yaml"))


def kind(option):
    """The class that an option, or the one that it starts from, names."""
    content = yaml.safe_load((CONF / f"{option}.yaml").read_text())
    named = content.get("_target_") or content.get("model", {}).get("_target_")
    if named:
        return locate(named)
    (start,) = [entry for entry in content["defaults"] if isinstance(entry, str) and entry != "_self_"]
    return kind(start.rpartition("/")[2].partition("@")[0])


every_model = pytest.mark.parametrize("option", OPTIONS)
what_generates = pytest.mark.parametrize("option", [o for o in OPTIONS if issubclass(kind(o), DiffusionModel)])


@pytest.fixture
def make(compose, option, monkeypatch):
    class StandIn:  # for the classifier that guidance asks for, and the first stage of latent diffusion
        @staticmethod
        def log_prob(x_t, t):
            return torch.cat([x_t.flatten(1)[:, :9], 0.5 * x_t.flatten(1)[:, -1:]], 1).log_softmax(1)

    monkeypatch.setattr("diffsweep.configuration.loading.trained", lambda **_: StandIn)
    small = ["backbone.channels=8", "sampler.steps=3"]
    if "network" in compose(f"model={option}").autoencoder:
        small.append("autoencoder.network.channels=8")
        torch.manual_seed(0)
        StandIn.autoencoder = instantiated(compose(f"model={option}", *small).autoencoder, "network")()

    def make(*overrides):
        model = build_model(compose(f"model={option}", *small, *overrides))
        for parameter in model.parameters():
            if parameter.requires_grad and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        return model

    return make


@pytest.fixture
def batch_at(compose, option):
    """Training samples at positions of the stream, in the order of the data."""
    samples = build_data(compose(f"model={option}")).split("train")

    def batch_at(positions):
        positions = torch.as_tensor(positions)
        return {**samples[positions % len(samples)], "position": positions}

    return batch_at


@every_model
def test_weights_are_drawn_under_the_seed(make):
    states = [torch.cat([p.flatten() for p in make(f"seed={seed}").parameters()]) for seed in (0, 0, 1)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@every_model
def test_loss_of_a_batch_is_the_mean_over_its_positions(make, batch_at):
    """Whatever else is in the batch, and in whatever order: the noise belongs to the position. (Stratified times do not.)"""
    model = make("time_sampling=uniform").double().eval()
    double = {**batch_at(range(6)), "x": batch_at(range(6))["x"].double()}
    whole = model.training_step(double, 0)
    rows = [
        model.training_step({name: part[i : i + 1] for name, part in double.items()}, 7) for i in (3, 1, 0, 5, 2, 4)
    ]
    torch.testing.assert_close(torch.stack(rows).mean(), whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "option", [o for o in OPTIONS if o not in ("classifier", "autoencoder_vq")]
)  # which see clean data alone
def test_positions_and_seeds_have_other_noise(make, batch_at):
    model, batch = make().eval(), batch_at(range(6))
    later = {**batch, "position": batch["position"] + 60_000}  # the same pictures, epochs on
    losses = [model.training_step(b, 0).item() for b in (batch, later)]
    model.batch_noise = BatchNoise(1)
    losses.append(model.training_step(batch, 0).item())
    assert len(set(losses)) == 3


@what_generates
def test_samples_belong_to_seed_and_index(make):
    model = make().eval()
    whole = model.sample(torch.arange(6), seed=4)
    torch.testing.assert_close(model.sample(torch.tensor([5, 0, 3]), seed=4), whole[[5, 0, 3]], rtol=0, atol=1e-3)
    assert (model.sample(torch.arange(6), seed=5) - whole).abs().max() > 0.01
    assert not whole.requires_grad


@what_generates
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_samples_follow_the_precision_of_the_weights(make, dtype):
    """As with trainer.precision=64-true and bf16-true."""
    model = make().eval()
    single = model.sample(torch.arange(4), seed=0)
    other = model.to(dtype).sample(torch.arange(4), seed=0)
    assert (other.float() - single).abs().mean() < (1e-3 if dtype == torch.float64 else 0.1)


@what_generates
def test_another_sampler_can_be_used(make):
    model, seen = make().eval(), []
    x = model.sample(torch.arange(2), 0, sampler=DDIM(steps=5), callback=lambda step, t, denoised, x: seen.append(step))
    assert seen == [0, 1, 2, 3, 4]
    assert not torch.equal(x, model.sample(torch.arange(2), 0, sampler=DDIM(steps=4)))
