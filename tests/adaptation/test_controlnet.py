"""A model with a control network: it begins as its base, trains that network alone, and can be joined with others."""

import copy
from unittest import mock

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from diffsweep.adaptation import ControlNet
from diffsweep.configuration.build import build_data, build_model
from diffsweep.configuration.compose import compose
from diffsweep.configuration.loading import load_model
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.saved import load_config
from diffsweep.degradations import Edges, Segmentation
from diffsweep.errors import UserError
from diffsweep.layers import evaluating
from diffsweep.metrics.restoration import BIN
from diffsweep.pictures import load_npz, to_uint8
from diffsweep.runs.commands import sample
from diffsweep.runs.training import train
from diffsweep.samplers import DDIM

SMALL = ("backbone.channels=8", "sampler=ddim", "sampler.steps=3", "metrics=none", "logger=csv")
LATENTS = ("model=ldm", "autoencoder.network.channels=8", "autoencoder.cache=false", "conditioning=class")
KINDS = {"pixels": ("model=classifier_free",), "latents": LATENTS, "dit": ("model=classifier_free", "backbone=dit")}
every = pytest.mark.parametrize("kind", KINDS)
ROWS = torch.arange(4)


def built(composed, kind):
    """Return a model whose output layers are not zero, as if it was trained, and its data."""
    cfg = composed(*KINDS[kind], *SMALL)

    def untrained(**_):
        return instantiate(cfg.autoencoder.network)()

    with mock.patch("diffsweep.configuration.loading.trained", untrained):
        model, data = build_model(cfg), build_data(cfg)
        model.autoencoder.decode(torch.zeros(1, *model.autoencoder.shape))  # loads the first stage
    torch.manual_seed(1)
    for weight in model.denoiser.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.2)
    return model.requires_grad_(False).eval(), data


def adapted(base, degradation=None, size=8, **settings):
    """Return a copy of a model with a control network."""
    model = copy.deepcopy(base).requires_grad_(True)
    ControlNet(degradation or Segmentation(), 1, size, base=lambda: base, train=(), **settings)(model)
    return model.eval()


def filled(model):
    """Fill in the layers of control networks that are zero at first."""
    for branch in model.denoiser.backbone.controls:
        for layer in (*branch.zero, branch.hint[-1]):
            torch.nn.init.normal_(layer.weight, std=0.3)
    return model


def drawn(model, data):
    with evaluating(model):
        return model.sample(ROWS, 0, model.request(ROWS, data.split("val"))[1])


def losses(model, data):
    model.eval()  # without dropout of the class
    return model.losses({**data.split("train")[ROWS], "position": ROWS}).losses


@every
def test_at_step_0_and_at_weight_0_samples_and_losses_are_those_of_the_base(compose, kind):
    base, data = built(compose, kind)
    model = adapted(base)
    assert torch.equal(drawn(model, data), drawn(base, data))
    assert torch.equal(losses(model, data), losses(base, data))
    steered = filled(model)
    assert not torch.allclose(drawn(steered, data), drawn(base, data), atol=1e-3)
    assert not torch.equal(losses(steered, data), losses(base, data))
    steered.denoiser.backbone.controls[0].weight = 0.0
    assert torch.equal(drawn(steered, data), drawn(base, data))
    assert model.requires_pixels


@every
def test_it_trains_the_control_network_alone_and_keeps_the_rest_out_of_checkpoints(compose, kind):
    base, data = built(compose, kind)
    model = adapted(base)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {name for name in dict(model.named_parameters()) if ".controls.0." in name}
    assert model.given == set(dict(base.named_parameters()))
    assert model.adaptation.plain(model).keys() == base.state_dict().keys()
    losses(model, data).mean().backward()
    learning = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert learning
    assert all(".zero." in name for name in learning)


def test_times_outside_the_interval_are_those_of_the_base(compose):
    base, data = built(compose, "pixels")
    model = filled(adapted(base, interval=(0.4, 0.6)))
    cond = model.request(ROWS, data.split("val"))[1]
    x = torch.randn(4, 1, 8, 8)
    for t, inside in ((0.0, False), (0.39, False), (0.4, True), (0.6, True), (0.61, False), (1.0, False)):
        same = torch.equal(model.denoiser(x, torch.tensor(t), cond).eps, base.denoiser(x, torch.tensor(t), cond).eps)
        assert same != inside, t
    each = torch.tensor([0.3, 0.5, 0.55, 0.8])
    apart = (model.denoiser(x, each, cond).eps - base.denoiser(x, each, cond).eps).flatten(1).abs().amax(1)
    assert apart[[0, 3]].max() < 1e-5
    assert apart[[1, 2]].min() > 1e-3


def test_joined_control_networks_add_up_and_read_their_own_images(compose):
    base, data = built(compose, "pixels")
    first, other = filled(adapted(base)), filled(adapted(base, Edges(0.2, 0.5)))
    alone = drawn(other, data)
    both = copy.deepcopy(first)
    other.adaptation.join(both, other, weight=0.7)
    assert both.control.sizes == [1, 1]
    both.denoiser.backbone.controls[0].weight = 0.0
    both.denoiser.backbone.controls[1].weight = 1.0
    torch.testing.assert_close(drawn(both, data), alone)
    both.denoiser.backbone.controls[0].weight, both.denoiser.backbone.controls[1].weight = 1.0, 0.7
    cond = both.request(ROWS, data.split("val"))[1]
    x, t = torch.randn(4, 1, 8, 8), torch.tensor(0.5)
    parts = []
    for model, channels, weight in ((first, slice(0, 1), 1.0), (other, slice(1, 2), 0.7)):
        branch = model.denoiser.backbone.controls[0]
        branch.weight = weight
        own = copy.copy(cond)
        object.__setattr__(own, "control", cond.control[:, channels])
        parts.append(branch(x, torch.full((4,), 500.0), own))
    sums = both.denoiser.backbone.added(x, torch.full((4,), 500.0), cond)
    for total, one, two in zip(sums, *parts, strict=True):
        torch.testing.assert_close(total, one + two)
    assert not torch.allclose(both.denoiser(x, t, cond).eps, first.denoiser(x, t, cond).eps, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (("adaptation.interval=[0.5,0.5]",), r"adaptation.interval is two times, 0 <= least < most <= 1, not \[0.5, 0"),
        (("adaptation.blocks=2",), "adaptation=controlnet: a U-Net is copied as far as its middle"),
        (("degradation=downsample", "degradation.factor=3"), "degradation.factor=3 does not divide the image's 8"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(finished, tmp_path, overrides, match):
    with pytest.raises(UserError, match=match):
        preflight(controlled_run(finished, tmp_path / "new", *overrides))


def controlled_run(base, directory, *overrides):
    places = (f"hydra.run.dir={directory}", f"paths.output_dir={directory.parent}", "logger=csv", "metrics=none")
    own = ("adaptation=controlnet", "degradation=segmentation", "trainer.max_steps=2")
    return compose("train", [f"from={base}", *places, *own, *overrides])


@pytest.mark.slow
def test_a_run_is_trained_loaded_and_sampled_for_given_images(finished, tmp_path):
    """Control images that are given draw what those that are made of the same images draw."""
    cfg = controlled_run(finished, tmp_path / "control")
    preflight(cfg)
    train(cfg)
    saved = torch.load(tmp_path / "control" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert saved
    assert all(".controls.0." in name for name in saved)
    model = load_model(load_config(tmp_path / "control"))
    assert model.denoiser.backbone.controls[0].zero[0].weight.any()  # it has trained

    def run(folder, *overrides):
        few = ("num_samples=3", "sampler=ddim", "sampler.steps=2", "task=control")
        cfg = compose("sample", [f"run={tmp_path / 'control'}", *few, f"output={tmp_path / folder}", *overrides])
        preflight(cfg)
        sample(cfg)
        return load_npz(tmp_path / folder / "samples.npz")

    x = run("data")
    images = Segmentation().image(build_data(cfg).split("val")["x"][:3])
    np.savez(tmp_path / "control.npz", to_uint8(images))
    given = run("given", f"task.source={tmp_path / 'control.npz'}", "task.degraded=true")
    assert (x - given).abs().max() <= BIN
    assert (tmp_path / "data" / "controlled.png").is_file()
    np.savez(tmp_path / "small.npz", to_uint8(torch.zeros(3, 1, 4, 4)))
    for source, match in (
        (tmp_path / "small.npz", r"has images of shape \(1, 4, 4\), and the model's have \(1, 8, 8\)"),
        (f"[{tmp_path / 'control.npz'},{tmp_path / 'control.npz'}]", "task.source has 2 sources, and the model has 1"),
    ):
        with pytest.raises(UserError, match=match):
            run("wrong", f"task.source={source}", "task.degraded=true")


@pytest.mark.slow
def test_control_runs_are_joined_on_their_base_and_none_of_another_base(finished, tmp_path):
    """run=BASE adapters=[A:0.3,B] draws as the joined networks do, and A alone as the run of A with its weight."""
    for name, degradation in (("a", "segmentation"), ("b", "edges")):
        train(controlled_run(finished, tmp_path / name, f"degradation={degradation}", "optimizer.lr=0.1"))

    def loaded(run, *overrides):
        return load_model(compose("sample", [f"run={run}", f"output={tmp_path / 'out'}", *overrides]))

    def samples(model):
        model.sampler = DDIM(steps=2)
        return drawn(model, data)

    a, b = tmp_path / "a", tmp_path / "b"
    data = build_data(load_config(finished))
    plain, alone = samples(loaded(finished)), samples(loaded(a, "adaptation.weight=0.3"))
    assert not torch.equal(plain, alone)
    torch.testing.assert_close(samples(loaded(finished, f"adapters=[{a}:0.3]")), alone)
    torch.testing.assert_close(samples(loaded(finished, f"adapters=[{a}:0,{b}:0]")), plain, rtol=0, atol=0)
    both = loaded(finished, f"adapters=[{a}:0.3,{b}]")
    assert [branch.weight for branch in both.denoiser.backbone.controls] == [0.3, 1.0]
    torch.testing.assert_close(samples(both), samples(loaded(a, "adaptation.weight=0.3", f"adapters=[{b}]")))
    places = (f"hydra.run.dir={tmp_path / 'other'}", f"paths.output_dir={tmp_path}", "logger=csv", "metrics=none")
    train(compose("train", [*places, "trainer.max_steps=1"]))
    with pytest.raises(UserError, match="is of another base, of weights"):
        loaded(tmp_path / "other", f"adapters=[{a}]")
