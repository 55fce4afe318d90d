"""Learning rates equal their closed forms."""

import math

import pytest
import torch

from diffsweep.models.lr_schedulers import constant, cosine


def rates(make, steps, **settings):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler, found = make(optimizer, **settings), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_constant_warms_up_and_stays():
    assert rates(constant, 7, warmup_steps=4) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0])
    assert rates(constant, 3) == [2.0, 2.0, 2.0]


def test_cosine_warms_up_and_falls_to_0_along_half_a_cosine():
    expected = [1.0, 2.0] + [1 + math.cos(math.pi * k / 8) for k in range(8)] + [0.0, 0.0]
    assert rates(cosine, 12, total_steps=10, warmup_steps=2) == pytest.approx(expected)


def test_cosine_without_a_warm_up_starts_at_the_full_rate():
    assert rates(cosine, 5, total_steps=4) == pytest.approx([1 + math.cos(math.pi * k / 4) for k in range(5)])
