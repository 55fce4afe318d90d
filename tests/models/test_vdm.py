"""VDM's step: the ends of the schedule and the network minimise the loss, the schedule's shape its second moment."""

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
    model.time_sampling.register_forward_pre_hook(lambda _, args: (args[0], args[1].double()))  # times are float32 else
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
    """The schedule's shape, its ends, and the network."""
    ends = [model.denoiser.schedule.gamma_0, model.denoiser.schedule.gamma_1]
    shape = [part for name, part in model.denoiser.schedule.named_parameters() if not name.startswith("gamma")]
    return shape, ends, list(model.denoiser.backbone.parameters())


def plain_losses(model, *positions):
    """Without what VDM adds."""
    losses, _, weight = DiffusionModel.losses(model, batch_at(*positions))
    assert (weight == 1).all()
    return losses


def gradients(model, value):
    value.backward()
    return [[part.grad for part in group] for group in parts_of(model)]


def plain_gradients(model, value, group):
    return list(torch.autograd.grad(value, parts_of(model)[group], retain_graph=True))


def test_losses_are_the_plain_ones(model):
    losses, _, _ = model.losses(batch_at(*BATCH))
    assert torch.equal(losses, plain_losses(model, *BATCH))
    assert losses.std() > 0.01


def test_the_shape_learns_from_squares_and_all_else_from_the_mean(model):
    """One backward pass; against two plain ones."""
    shape, ends, network = gradients(model, model.training_step(batch_at(*BATCH), 0))
    losses = plain_losses(model, *BATCH)
    expected = plain_gradients(model, losses.square().mean(), 0)
    torch.testing.assert_close(shape, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ends, plain_gradients(model, losses.mean(), 1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(network, plain_gradients(model, losses.mean(), 2), rtol=1e-10, atol=1e-12)
    of_mean = plain_gradients(model, losses.mean(), 0)
    assert max(float((a - b).abs().max()) for a, b in zip(of_mean, expected, strict=True)) > 1e-3


def test_gradients_of_the_shape_are_finite_differences_of_the_mean_square(model):
    shape, _, _ = gradients(model, model.training_step(batch_at(*BATCH), 0))
    for parameter, gradient in zip(parts_of(model)[0], shape, strict=True):
        ends, flat = [], parameter.data.view(-1)
        for step in (1e-4, -2e-4, 1e-4):
            ends.append(plain_losses(model, *BATCH).square().mean().item())
            flat[0] += step
        ends = ends[1:]
        assert float(gradient.view(-1)[0]) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-5, abs=1e-6)


def test_a_batch_of_one_too(model):
    shape, ends, _ = gradients(model, model.training_step(batch_at(5), 0))
    losses = plain_losses(model, 5)
    torch.testing.assert_close(shape, plain_gradients(model, losses.square().mean(), 0), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ends, plain_gradients(model, losses.mean(), 1), rtol=1e-10, atol=1e-12)


def test_batches_that_accumulate_keep_their_own_losses(model):
    """Also where both are computed before either flows back."""
    first, second = BATCH[:3], BATCH[3:]
    sums = [model.training_step(batch_at(*part), 0) for part in (first, second)]
    shape, ends, _ = gradients(model, sum(sums) / 2)
    losses = torch.cat([plain_losses(model, *part) for part in (first, second)])
    torch.testing.assert_close(shape, plain_gradients(model, losses.square().mean(), 0), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ends, plain_gradients(model, losses.mean(), 1), rtol=1e-10, atol=1e-12)


def test_the_step_leaves_no_trace_in_other_losses(model):
    """Nor where it failed."""
    before = plain_gradients(model, plain_losses(model, *BATCH).mean(), 0)
    model.losses(batch_at(*BATCH))
    torch.testing.assert_close(plain_gradients(model, plain_losses(model, *BATCH).mean(), 0), before, rtol=0, atol=0)
    with pytest.raises(KeyError):
        model.losses({"x": batch_at(*BATCH)["x"]})
    torch.testing.assert_close(plain_gradients(model, plain_losses(model, *BATCH).mean(), 0), before, rtol=0, atol=0)


def test_without_gradients_it_is_a_loss_as_any(model):
    with torch.no_grad():
        losses, _, _ = model.losses(batch_at(*BATCH))
    assert not losses.requires_grad
    torch.testing.assert_close(losses, plain_losses(model, *BATCH).detach(), rtol=1e-12, atol=0)


def test_a_fixed_schedule_is_trained_as_any_model(compose):
    model = build_model(compose("model=vdm", "schedule=cosine_continuous", "backbone.channels=8")).double().eval()
    losses, _, _ = model.losses(batch_at(*BATCH))
    assert torch.equal(losses, plain_losses(model, *BATCH))
    assert not any(parameter.requires_grad for parameter in model.denoiser.schedule.parameters())


def test_training_moves_the_ends_and_the_shape(compose, tmp_path):
    """And the schedule stays one: the log-SNR falls."""
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
