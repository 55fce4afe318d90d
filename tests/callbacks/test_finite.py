"""A run whose loss or gradient is NaN or infinite stops before the update, and no checkpoint of it is saved."""

import pytest
import torch
from torch import Tensor

from diffsweep.callbacks import LossIsNaN, StopOnNaN
from diffsweep.models import Model

BAD = [float("nan"), float("inf")]


@pytest.fixture
def guarded(toy):
    """A module whose gradients are clipped as a model's are, with a loss that can have finite gradients when NaN."""

    class Guarded(toy):
        on_gradients = None
        configure_gradient_clipping = Model.configure_gradient_clipping
        _report_gradients = Model._report_gradients

    return Guarded


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_loss_raises_before_the_update(guarded, fit, bad, clip):
    module = guarded()
    with pytest.raises(LossIsNaN, match=r"in step 3, .*changed no weight.*optimizer\.lr"):
        fit(module, [StopOnNaN()], [1.0, 1.0, bad, 1.0], log_every_n_steps=50, gradient_clip_val=clip)
    assert len(module.seen.training) == 3
    assert torch.equal(module.weight, module.seen.training[2])


def test_a_loss_that_is_nan_with_finite_gradients_raises_too(guarded, fit):
    class Shifted(guarded):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss + float("nan") if batch_idx == 1 else loss

    module = Shifted()
    with pytest.raises(LossIsNaN, match="in step 2"):
        fit(module, [StopOnNaN()], [1.0, 1.0, 1.0], log_every_n_steps=50)
    assert torch.equal(module.weight, module.seen.training[1])


def test_so_many_steps_are_left_out_and_the_next_one_stops(guarded, fit, capsys):
    """A step that is left out changes nothing: the weights are those of the steps with finite losses."""
    module, reference = guarded(), guarded()
    guard = StopOnNaN(max_skipped=2)
    fit(module, [guard], [1.0, float("nan"), 2.0, float("inf"), 3.0], log_every_n_steps=1)
    fit(reference, [StopOnNaN()], [1.0, 2.0, 3.0], log_every_n_steps=1)
    assert torch.equal(module.weight, reference.weight)
    assert guard.state_dict() == {"skipped": 2}
    assert capsys.readouterr().out.count("is left out") == 2
    resumed = StopOnNaN(max_skipped=2)
    resumed.load_state_dict(guard.state_dict())
    with pytest.raises(LossIsNaN, match="in step 1"):
        fit(guarded(), [resumed], [float("nan")])


def test_a_finite_run_goes_on(guarded, fit):
    trainer = fit(guarded(), [StopOnNaN()], [1.0, -1.0, 1e15], log_every_n_steps=1)
    assert trainer.global_step == 3


def test_modules_of_other_kinds_are_checked_at_the_log_and_before_a_checkpoint(toy, fit, tmp_path):
    with pytest.raises(LossIsNaN):
        fit(toy(), [StopOnNaN()], [1.0, float("nan")], log_every_n_steps=1)
    trainer = fit(toy(), [StopOnNaN()], [1.0, float("nan")], log_every_n_steps=50)
    with pytest.raises(LossIsNaN):
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "a.ckpt").exists()


def test_a_fused_optimizer_skips_a_step_by_the_flag_of_the_guard():
    """The flag ``found_inf``, by which fused optimizers skip a step on a GPU, changes no weight and no state."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5, fused=True)

    def step(gradient: Tensor, flag: float) -> None:
        weight.grad = gradient
        optimizer.found_inf = torch.tensor(flag)
        optimizer.step()

    step(torch.ones(3), 0.0)
    before = weight.detach().clone(), {name: value.clone() for name, value in optimizer.state[weight].items()}
    step(torch.full((3,), float("nan")), 1.0)
    assert torch.equal(weight, before[0])
    assert all(torch.equal(value, before[1][name]) for name, value in optimizer.state[weight].items())
    step(torch.ones(3), 0.0)
    assert not torch.equal(weight, before[0])
    assert torch.isfinite(weight).all()


def test_a_cap_below_zero_is_refused():
    with pytest.raises(ValueError, match=r"callbacks\.finite\.max_skipped must be at least 0"):
        StopOnNaN(max_skipped=-1)
