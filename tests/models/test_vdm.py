"""VDM's training step: the schedule's ends and the network minimise the loss, its shape the second moment."""

import copy

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader
from trainers import QUIET

from diffsweep.configuration.build import build_model
from diffsweep.datasets import load_digits
from diffsweep.models import DiffusionModel


@pytest.fixture(scope="module")
def built(compose):
    model = build_model(compose("model=vdm", "backbone.channels=8", "schedule.width=8")).double().eval()
    model.time_sampling.register_forward_pre_hook(
        lambda _, args: (args[0], args[1].double())
    )  # otherwise times are float32
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def model(built):
    return copy.deepcopy(built)


def batch_at(*positions):
    positions = torch.tensor(positions)
    return {"x": load_digits("train")["x"][positions].double(), "position": positions}


BATCH = (3, 1, 40, 7, 1200, 8)


def parts_of(model):
    """Return the parameters of the schedule's shape, of its ends, and of the network."""
    ends = [model.denoiser.schedule.gamma_0, model.denoiser.schedule.gamma_1]
    shape = [part for name, part in model.denoiser.schedule.named_parameters() if not name.startswith("gamma")]
    return shape, ends, list(model.denoiser.backbone.parameters())


def plain_losses(model, *positions):
    """Return the losses of the training step without what VDM adds."""
    losses, _, weight = DiffusionModel.losses(model, batch_at(*positions))
    assert (weight == 1).all()
    return losses


def gradients(model, value):
    value.backward()
    return [[part.grad for part in group] for group in parts_of(model)]


def plain_gradients(model, value, group):
    return list(torch.autograd.grad(value, parts_of(model)[group], retain_graph=True))


def test_losses_equal_those_of_a_plain_diffusion_model(model):
    losses, _, _ = model.losses(batch_at(*BATCH))
    assert torch.equal(losses, plain_losses(model, *BATCH))
    assert losses.std() > 0.01


def test_the_shape_learns_from_squares_and_all_else_from_the_mean(model):
    """One backward pass of VDM gives the gradients of two plain ones."""
    shape, ends, network = gradients(model, model.training_step(batch_at(*BATCH), 0))
    losses = plain_losses(model, *BATCH)
    expected = plain_gradients(model, losses.square().mean(), 0)
    torch.testing.assert_close(shape, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ends, plain_gradients(model, losses.mean(), 1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(network, plain_gradients(model, losses.mean(), 2), rtol=1e-10, atol=1e-12)
    of_mean = plain_gradients(model, losses.mean(), 0)
    assert max(float((a - b).abs().max()) for a, b in zip(of_mean, expected, strict=True)) > 1e-3


def test_gradients_of_the_shape_equal_finite_differences_of_the_mean_square(model):
    shape, _, _ = gradients(model, model.training_step(batch_at(*BATCH), 0))
    for parameter, gradient in zip(parts_of(model)[0], shape, strict=True):
        ends, flat = [], parameter.data.view(-1)
        for step in (1e-4, -2e-4, 1e-4):
            ends.append(plain_losses(model, *BATCH).square().mean().item())
            flat[0] += step
        ends = ends[1:]
        assert float(gradient.view(-1)[0]) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-5, abs=1e-6)


def test_a_batch_of_one_has_the_same_gradients(model):
    shape, ends, _ = gradients(model, model.training_step(batch_at(5), 0))
    losses = plain_losses(model, 5)
    torch.testing.assert_close(shape, plain_gradients(model, losses.square().mean(), 0), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ends, plain_gradients(model, losses.mean(), 1), rtol=1e-10, atol=1e-12)


def test_batches_that_accumulate_keep_their_own_losses(model):
    """Both losses are computed before either backward pass."""
    first, second = BATCH[:3], BATCH[3:]
    sums = [model.training_step(batch_at(*part), 0) for part in (first, second)]
    shape, ends, _ = gradients(model, sum(sums) / 2)
    losses = torch.cat([plain_losses(model, *part) for part in (first, second)])
    torch.testing.assert_close(shape, plain_gradients(model, losses.square().mean(), 0), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ends, plain_gradients(model, losses.mean(), 1), rtol=1e-10, atol=1e-12)


def test_the_step_does_not_change_later_losses(model):
    """Neither a step that succeeded nor one that failed changes them."""
    before = plain_gradients(model, plain_losses(model, *BATCH).mean(), 0)
    model.losses(batch_at(*BATCH))
    torch.testing.assert_close(plain_gradients(model, plain_losses(model, *BATCH).mean(), 0), before, rtol=0, atol=0)
    with pytest.raises(KeyError):
        model.losses({"x": batch_at(*BATCH)["x"]})
    torch.testing.assert_close(plain_gradients(model, plain_losses(model, *BATCH).mean(), 0), before, rtol=0, atol=0)


def test_losses_can_be_computed_without_gradients(model):
    with torch.no_grad():
        losses, _, _ = model.losses(batch_at(*BATCH))
    assert not losses.requires_grad
    torch.testing.assert_close(losses, plain_losses(model, *BATCH).detach(), rtol=1e-12, atol=0)


def test_with_a_fixed_schedule_the_step_is_that_of_a_plain_diffusion_model(compose):
    model = build_model(compose("model=vdm", "schedule=cosine_continuous", "backbone.channels=8")).double().eval()
    losses, _, _ = model.losses(batch_at(*BATCH))
    assert torch.equal(losses, plain_losses(model, *BATCH))
    assert not any(parameter.requires_grad for parameter in model.denoiser.schedule.parameters())


def test_training_moves_the_ends_and_the_shape(compose, tmp_path):
    """The log-SNR of the trained schedule still falls."""
    model = build_model(compose("model=vdm", "backbone.channels=8", "schedule.width=8", "optimizer.lr=0.01"))
    before = copy.deepcopy(model.denoiser.schedule)
    trainer = Trainer(**QUIET, max_steps=5, default_root_dir=tmp_path, log_every_n_steps=5)
    data = load_digits("train")["x"][:40]
    rows = [{"x": x, "position": torch.tensor(i)} for i, x in enumerate(data)]
    trainer.fit(model, DataLoader(rows, batch_size=8))
    schedule, t = model.denoiser.schedule, torch.linspace(0, 1, 11, dtype=torch.float64)
    assert schedule.gamma_0 != before.gamma_0
    assert schedule.gamma_1 != before.gamma_1
    assert not torch.equal(schedule.l3.weight, before.l3.weight)
    with torch.no_grad():
        assert (schedule.log_snr(t).diff() < 0).all()
