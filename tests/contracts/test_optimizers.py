"""Tests of every option of conf/optimizer and conf/lr_scheduler."""

from pathlib import Path

import pytest
import torch

from diffsweep.configuration.build import build


def options(group):
    return sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / group).glob("*.yaml"))


@pytest.mark.parametrize("option", options("optimizer"))
def test_an_optimizer_minimises_a_quadratic_with_its_default_settings(compose, option):
    weight = torch.nn.Parameter(torch.tensor([0.5, -0.3]))
    optimizer = build(compose(f"optimizer={option}"), "optimizer")([weight])
    assert optimizer.param_groups[0]["lr"] == compose(f"optimizer={option}").optimizer.lr
    for _ in range(1000):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert weight.abs().max() < 0.02


@pytest.mark.parametrize("option", sorted({*options("lr_scheduler")} - {"rounds"}))  # tests/models/test_progressive
def test_the_learning_rate_warms_up_from_the_first_step_and_never_exceeds_the_optimizers(compose, option):
    """The warm-up is linear, and the rate stays positive until the last step of the run."""
    cfg = compose(f"lr_scheduler={option}", "lr_scheduler.warmup_steps=10", "trainer.max_steps=50")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    scheduler, rates = build(cfg, "lr_scheduler")(optimizer), []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:10] == pytest.approx([0.08 * (step + 1) for step in range(10)])
    assert min(rates) > 0
    assert max(rates) == pytest.approx(0.8)
