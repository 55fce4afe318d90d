"""Compiled models: losses, gradients and samples are those of the same model that is not compiled, within rounding."""

import copy
from contextlib import nullcontext

import pytest
import torch
from slower import some

from diffsweep.adaptation import ControlNet, Lora
from diffsweep.backbones import Execution
from diffsweep.configuration.build import build_data, build_model
from diffsweep.degradations import Segmentation
from diffsweep.diffusion import Condition, Known, Noise, PixelMask
from diffsweep.guidance import Reconstruction
from diffsweep.layers import evaluating
from diffsweep.metrics.likelihood import EncodedBatch, ODELikelihood

pytestmark = pytest.mark.usefixtures("nothing_compiled")
SMALL = (
    *("model=classifier_free", "backbone.channels=16", "backbone.num_heads=2", "sampler=dpm_solver_pp"),
    *("sampler.steps=4", "metrics=none", "logger=csv", "dataset.batch_size=4"),
)
NETWORKS = {
    "unet": (*SMALL[:2], *SMALL[3:], "backbone.channel_mult=[1,2]", "backbone.num_res_blocks=1"),
    "dit": (*SMALL, "backbone=dit", "backbone.depth=2"),
}


def plain(model):
    return model


def controlled(model):
    base = copy.deepcopy(model).requires_grad_(False)
    ControlNet(Segmentation(), 1, 8, base=lambda: base, train=())(model)
    for branch in model.denoiser.backbone.controls:
        for layer in (*branch.zero, branch.hint[-1]):
            torch.nn.init.normal_(layer.weight, std=0.3)
    return model


def adapted(model):
    base = copy.deepcopy(model).requires_grad_(False)
    targets = [name for name in ("denoiser.backbone.*.to_*", "denoiser.backbone.*.conv_*") if matching(model, name)]
    Lora(base=lambda: base, train=(), targets=targets)(model)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model


def matching(model, pattern):
    from fnmatch import fnmatchcase

    return any(fnmatchcase(name, pattern) for name, _ in model.named_modules())


def checkpointed(model):
    model.denoiser.backbone.checkpointing = True
    return model


CHANGES = {"plain": plain, "controls": controlled, "lora": adapted, "bfloat16": plain, "checkpointing": checkpointed}
CASES = [
    *(("dit", change, "blocks", "aot_eager") for change in reversed(CHANGES)),
    *(("unet", change, "network", "aot_eager") for change in ("controls", "lora")),
    *(("dit", change, "network", "aot_eager") for change in ("bfloat16", "checkpointing")),
    ("dit", "controls", "network", "inductor"),
    ("dit", "bfloat16", "blocks", "inductor"),
]


def learned(model, data, rows):
    """Return the losses of a training batch and their gradients, from the same draws of dropout for each call."""
    model.train().zero_grad()
    torch.manual_seed(0)
    losses = model.losses({**data.split("train")[rows], "position": rows}).losses
    losses.mean().backward()
    return losses.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def drawn(model, data, rows):
    with evaluating(model):
        return model.sample(rows, 0, model.request(rows, data.split("val"))[1])


@pytest.mark.parametrize("case", some(CASES, 1, "-".join))
def test_losses_gradients_and_samples_are_those_of_the_model(composed_model, capsys, case):
    """With two sizes of batches, and other weights put in their place, as those of an average are for sampling."""
    network, change, regions, backend = case
    eager, data = composed_model(network, change)
    compiled = copy.deepcopy(eager)
    Execution(regions, backend)([compiled.get_submodule(name) for name in compiled.networks])
    mixed = change == "bfloat16"
    rtol, atol = (3e-2, 3e-2) if mixed else (1e-3, 1e-4)
    for rows in (torch.arange(4), torch.arange(3)):
        with torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext():
            (losses, found), (expected, wanted) = learned(compiled, data, rows), learned(eager, data, rows)
            samples = drawn(compiled, data, rows), drawn(eager, data, rows)
        torch.testing.assert_close(losses, expected, rtol=rtol, atol=atol)
        assert found.keys() == wanted.keys()
        torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol)
        if mixed:  # the solver enlarges what is rounded in single pixels
            assert (samples[0] - samples[1]).abs().mean() < atol
        else:
            torch.testing.assert_close(*samples, rtol=rtol, atol=10 * atol)
        for model in (eager, compiled):
            for weight in model.parameters():
                weight.data = 0.9 * weight.data
    assert "cannot compile" not in capsys.readouterr().err


@pytest.fixture
def composed_model(compose):
    def made(network, change):
        cfg = compose(*NETWORKS[network])
        model, data = build_model(cfg), build_data(cfg)
        torch.manual_seed(1)
        for weight in model.denoiser.parameters():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.2)
        return CHANGES[change](model), data

    return made


@pytest.mark.slow
def test_several_gradients_of_one_output_are_those_of_the_model(composed_model):
    """Compiled code gives one, so guidance by a measurement and exact likelihoods compute without it."""
    eager, data = composed_model("dit", "plain")
    compiled = copy.deepcopy(eager)
    Execution("network", "aot_eager")([compiled.denoiser.backbone])
    x = data.split("val")[torch.arange(2)]["x"]
    known = Known(PixelMask(torch.arange(8).expand(2, 1, 8, 8) < 4), x)
    found = []
    for model in (eager.eval(), compiled.eval()):
        guidance = Reconstruction(model.denoiser, weight="covariance")
        with torch.no_grad():
            guided = guidance(x, torch.tensor(0.5), Condition(known=known)).x0
        batch = EncodedBatch(x, None, Noise(0, torch.arange(2)), None)
        found.append((guided, ODELikelihood(divergence="exact", tolerance=0.1).measure(model.denoiser, batch, None)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)
