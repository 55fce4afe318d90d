"""Files for TensorBoard, read back by TensorBoard's own reader."""

import io

import numpy as np
import pytest
from PIL import Image

from diffsweep.configuration.compose import compose
from diffsweep.configuration.preflight import preflight
from diffsweep.errors import UserError
from diffsweep.runs.training import train

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.mark.slow
def test_a_run_writes_scalars_and_pictures(tmp_path, configure, history):
    pictures = ("callbacks=default", "callbacks.sample_grid.num_samples=4", "callbacks.sample_grid.steps=2")
    steps = ("trainer.max_steps=4", "trainer.log_every_n_steps=2", "trainer.val_check_interval=2")
    run = tmp_path / "run"
    train(configure(run, "logger=tensorboard", *pictures, *steps))
    events = event_accumulator.EventAccumulator(str(run / "tensorboard")).Reload()
    for name in ("train/loss", "val/loss", "train/lr", "train/grad_norm"):
        expected = [(int(row["step"]), float(row[name])) for row in history(run) if row[name]]
        assert [event.step for event in events.Scalars(name)] == [step for step, _ in expected]
        assert [event.value for event in events.Scalars(name)] == pytest.approx([value for _, value in expected])
    assert [event.step for event in events.Images("samples")] == [2, 4]
    shown = Image.open(io.BytesIO(events.Images("samples")[1].encoded_image_string)).convert("L")
    assert np.array_equal(np.asarray(shown), np.asarray(Image.open(run / "samples" / "step_000004.png").convert("L")))
    assert not (run / "wandb").exists()


def test_several_loggers_are_a_list():
    both = compose("train", ["logger=[wandb,tensorboard]"])
    preflight(both)
    assert (both.logger.mode, both.logger.tensorboard) == ("offline", True)
    for words, expected in ((["logger=tensorboard"], ("disabled", True)), (["logger=csv"], ("disabled", False))):
        cfg = compose("train", words)
        assert (cfg.logger.mode, cfg.logger.tensorboard) == expected
    with pytest.raises(UserError, match="did you mean tensorboard"):
        compose("train", ["logger=[wandb,tensorbord]"])


@pytest.mark.slow
def test_a_run_passes_its_loggers_on(tmp_path, configure):
    train(configure(tmp_path / "run", "logger=[csv,tensorboard]", "trainer.max_steps=1"))
    for command, key in (("train", "resume"), ("evaluate", "run"), ("sample", "run")):
        assert compose(command, [f"{key}={tmp_path / 'run'}"]).logger.tensorboard
        assert not compose(command, [f"{key}={tmp_path / 'run'}", "logger=csv"]).logger.tensorboard
        assert compose(command, [f"{key}={tmp_path / 'run'}", "logger=wandb"]).logger.mode == "offline"


def test_without_tensorboard_one_line_names_the_package(monkeypatch):
    from diffsweep.configuration.rules import trainer

    monkeypatch.setattr(trainer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'diffsweep\[tensorboard\]'"):
        trainer_rule(trainer)


def trainer_rule(trainer):
    """Apply the rule on TensorBoard alone."""
    message = trainer.tensorboard_is_installed(compose("train", ["logger=tensorboard"]), None)
    if message is not None:
        raise UserError(message)
