"""The course of training in the log: learning rate, norm of the gradient, decay and speed."""

import pytest
import torch

from diffsweep.callbacks import EMA, STEPS_PER_SECOND, TrainingMeter


@pytest.fixture
def logged(toy, fit):
    """``logged(every, *callbacks)`` returns the numbers that were logged in training, by step."""

    def logged(every, callbacks=(), decreases=(0.5, 0.25, 0.125, 0.0625)):
        module, found = toy(), []
        module.log_dict = lambda numbers: found.append((module.trainer.global_step, dict(numbers)))
        fit(module, [TrainingMeter(), *callbacks], list(decreases), 2, log_every_n_steps=every)
        return found

    return logged


def test_it_logs_where_metrics_are_logged_and_nowhere_else(logged):
    assert [step for step, _ in logged(2)] == [2, 4]
    assert [step for step, _ in logged(3)] == [3]
    assert logged(5) == []


def test_the_norm_is_that_of_the_gradient_and_the_decay_that_of_the_average(logged):
    for step, numbers in logged(1, [EMA(decay=0.5)]):
        expected = (0.5, 0.25, 0.125, 0.0625)[step - 1]
        assert float(numbers["train/grad_norm"]) == pytest.approx(expected * 2**0.5)  # of two weights
        assert numbers["train/ema_decay"] == min(0.5, (1 + step) / (10 + step))
        assert numbers[STEPS_PER_SECOND] > 0
    assert "train/ema_decay" not in logged(1)[0][1]


def test_no_norm_is_computed_at_other_steps(logged, monkeypatch):
    calls, norm = [], torch.nn.utils.get_total_norm
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda gradients: (calls.append(1), norm(gradients))[1])
    logged(4)
    assert len(calls) == 1
