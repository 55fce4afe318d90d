"""Importance sampling of times lowers the variance of the bound's gradient, on digits."""

import pytest
import torch

from diffsweep.configuration.build import build_model
from diffsweep.datasets import load_digits


def trained(compose, *overrides, steps):
    model = build_model(compose("model=improved_ddpm", "backbone.channels=16", *overrides))
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=2e-3, betas=(0.9, 0.99))
    for step in range(steps):
        optimizer.zero_grad()
        model.training_step(batch_at(step), 0).backward()
        torch.nn.utils.clip_grad_norm_(model.denoiser.parameters(), 1.0)
        optimizer.step()
    return model


def batch_at(step, size=64):
    positions = torch.arange(step * size, (step + 1) * size)
    return {**{name: part[positions % 1500] for name, part in load_digits("train").items()}, "position": positions}


def gradient_variance(model, time_sampling, batches):
    """Return the trace of the covariance of the gradient over batches, and the squared norm of its mean."""
    model.time_sampling = time_sampling
    total, squares = 0.0, 0.0
    for step in batches:
        losses, _, weight = model.losses(batch_at(step))
        gradients = torch.autograd.grad((weight * losses).mean(), list(model.denoiser.parameters()))
        flat = torch.cat([gradient.flatten().double() for gradient in gradients])
        total, squares = total + flat, squares + flat.square().sum()
    mean = total / len(batches)
    return (squares / len(batches) - mean.square().sum()).item(), mean.square().sum().item()


@pytest.mark.slow
def test_importance_lowers_the_gradient_variance_of_the_bound(compose):
    overrides = ("objective=vlb", "schedule.num_steps=200", "time_sampling=importance")
    model = trained(compose, *overrides, steps=400)
    importance = model.time_sampling
    assert (importance.counts >= importance.history).all()
    uniform = build_model(compose("model=improved_ddpm", "backbone.channels=16")).time_sampling
    batches = range(1000, 1100)
    (by_importance, _), (by_uniform, _) = (gradient_variance(model, times, batches) for times in (importance, uniform))
    print(f"gradient variance of the bound: {by_uniform:.4g} uniform, {by_importance:.4g} by importance")
    assert by_importance < by_uniform
