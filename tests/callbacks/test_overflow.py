"""Steps of float16 whose gradients overflow are left out and counted; too many in a row stop the run."""

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from diffsweep.callbacks.overflow import GradientsOverflow, StopOnOverflow

LARGE = 1e35  # times the first scales, 2^16 to 2^12, it overflows the gradient's type; times 2^11 it does not


@pytest.fixture
def scaled(fit, toy):
    """``module, guard = scaled(data, max_in_a_row)``: a training with a gradient scaler, whose first scale is 2^16."""

    def scaled(data, guard, module=None, **settings):
        module = toy() if module is None else module
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**16))
        module.log = lambda name, value: logged.append((name, value))
        fit(module, [guard], data, plugins=[plugin], log_every_n_steps=2, **settings)
        return module

    logged = []
    scaled.logged = logged
    return scaled


def test_an_overflow_is_left_out_and_counted(scaled):
    """The weights are those of the other steps: SGD of rate 1 subtracts each gradient."""
    guard = StopOnOverflow()
    module = scaled([1.0, LARGE, 2.0, LARGE, LARGE, 4.0], guard)
    assert module.weight.tolist() == [1.0 - 7.0, -1.0 - 7.0]
    assert guard.state_dict() == {"overflows": 3}
    assert scaled.logged == [("train/overflows", 1.0), ("train/overflows", 2.0), ("train/overflows", 3.0)]


def test_a_resumed_run_counts_on(scaled, toy):
    guard = StopOnOverflow()
    guard.load_state_dict({"overflows": 5})
    scaled([LARGE, 1.0], guard)
    assert guard.overflows == 6


def test_too_many_in_a_row_stop_the_run_and_others_do_not(scaled, toy, tmp_path):
    module = toy()
    with pytest.raises(
        GradientsOverflow, match=r"of 3 steps in a row, up to about step 4, .*down to 8192;.*bf16-mixed"
    ):
        scaled([1.0, LARGE, LARGE, LARGE, 1.0], StopOnOverflow(max_in_a_row=2), module)
    assert module.weight.tolist() == [0.0, -2.0]
    guard = StopOnOverflow(max_in_a_row=2)
    scaled([LARGE, LARGE, 1.0, LARGE, LARGE, 1.0], guard)
    assert guard.overflows == 4


def test_no_checkpoint_is_saved_after_too_many(scaled, toy, tmp_path):
    guard, module = StopOnOverflow(max_in_a_row=1), toy()
    scaled([1.0], guard, module)
    guard._longest = torch.tensor(2.0)
    with pytest.raises(GradientsOverflow):
        module.trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "a.ckpt").exists()


def test_accumulated_batches_are_one_step(scaled):
    guard = StopOnOverflow(max_in_a_row=1)
    scaled([LARGE, 1.0, 1.0, 1.0], guard, accumulate_grad_batches=2)
    assert guard.overflows == 1


def test_other_precisions_count_nothing(fit, toy):
    guard = StopOnOverflow()
    fit(toy(), [guard], [1.0, LARGE, 1.0], log_every_n_steps=1)
    assert guard.overflows == 0


def test_a_cap_below_one_is_refused():
    with pytest.raises(ValueError, match=r"callbacks\.overflow\.max_in_a_row must be at least 1"):
        StopOnOverflow(max_in_a_row=0)
