"""A run whose loss is NaN or infinite stops, and no checkpoint of it is saved."""

import pytest

from diffsweep.callbacks import LossIsNaN, StopOnNaN


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_raises_at_the_next_log(toy, fit, bad):
    module = toy()
    with pytest.raises(LossIsNaN, match=r"between steps 2 and 4.*optimizer\.lr"):
        fit(module, [StopOnNaN()], [1.0, 1.0, bad, 1.0, 1.0, 1.0], log_every_n_steps=2)
    assert len(module.seen.training) == 4


def test_a_finite_run_goes_on(toy, fit):
    trainer = fit(toy(), [StopOnNaN()], [1.0, -1.0, 1e30], log_every_n_steps=1)
    assert trainer.global_step == 3


def test_no_checkpoint_is_saved_after_a_nan(toy, fit, tmp_path):
    """The loss is checked before each checkpoint, also between two logs."""
    trainer = fit(toy(), [StopOnNaN()], [1.0, float("nan")], log_every_n_steps=50)
    with pytest.raises(LossIsNaN):
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "a.ckpt").exists()
