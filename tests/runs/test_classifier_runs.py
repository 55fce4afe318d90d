"""Runs of a classifier, which generates no samples."""

import json
import math

import pytest
import torch

from diffsweep.configuration.build import build_diffusion
from diffsweep.configuration.compose import compose
from diffsweep.configuration.loading import load_model
from diffsweep.errors import UserError
from diffsweep.runs.training import train

TINY = ("model=noisy_classifier", "model.val_repeats=1", "dataset.batch_size=50", "backbone.channel_mult=[1]")
ALONE = ("backbone.attention_factors=[]", "backbone.dropout=0.3", "lr_scheduler.warmup_steps=2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, configure):
    """A run of six steps, its output and its result; not to be changed."""
    directory = tmp_path_factory.mktemp("classifier") / "run"
    result = train(configure(directory, *TINY, *ALONE, "trainer.max_steps=6", "trainer.log_every_n_steps=1"))
    return directory, result


def test_a_classifier_is_trained_and_measured_and_the_next_command_is_printed(tmp_path, configure, capsys):
    train(configure(tmp_path / "run", *TINY, *ALONE, "trainer.max_steps=2"))
    out = capsys.readouterr().out
    assert "encoder_unet: " in out
    assert "  accuracy " in out
    assert f"python src/evaluate.py run={tmp_path / 'run'}" in out
    assert "sample.py" not in out
    assert f"pictures  {tmp_path / 'run' / 'accuracy.png'}" in out


def test_a_sweep_minimises_its_cross_entropy(trained):
    directory, result = trained
    content = json.loads((directory / "metrics.json").read_text())
    assert result == content["metrics"]["cross_entropy"]
    assert content["protocol"]["model"] == "noisy_classifier"
    assert abs(result - math.log(10)) < 0.5


def test_validation_logs_the_accuracy_of_each_quarter_of_t(trained, history):
    last = [row for row in history(trained[0]) if row["val/loss"]][-1]
    quarters = [float(last[f"val/accuracy_q{q}"]) for q in (1, 2, 3, 4)]
    assert float(last["val/accuracy"]) == pytest.approx(
        sum(quarters) / 4, abs=0.01
    )  # the quarters of 297 samples differ in size by one


def test_evaluate_measures_the_averaged_weights_again(trained, command, tmp_path):
    out = tmp_path / "out"
    done = command("evaluate", f"run={trained[0]}", f"output={out}")
    assert done.code == 0, done.err
    again, first = (json.loads((place / "metrics.json").read_text()) for place in (out, trained[0]))
    assert again == {name: value for name, value in first.items() if name != "cost"}
    assert (out / "accuracy.csv").read_text() == (trained[0] / "accuracy.csv").read_text()
    for name in ("accuracy.csv", "accuracy.png", "metrics.json"):
        assert str(out / name) in done.out


def test_sampling_a_classifier_is_refused_with_what_to_use(trained, command):
    done = command("sample", f"run={trained[0]}")
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert "model=noisy_classifier, which draws no samples; evaluate.py measures it" in line
    assert not (trained[0] / "sample").exists()


def test_three_and_three_steps_are_six(trained, tmp_path, configure, resume, checkpoint, history):
    """Weights, average, optimizer and every logged loss agree, with dropout and shifts."""
    settings = (*TINY, *ALONE, "trainer.log_every_n_steps=1", "lr_scheduler.total_steps=6")
    train(configure(tmp_path / "run", *settings, "trainer.max_steps=3"))
    train(resume(tmp_path / "run", "trainer.max_steps=6"))
    ours, whole = checkpoint(tmp_path / "run"), checkpoint(trained[0])
    assert ours["global_step"] == 6
    for part in ("state_dict", "ema", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(ours[part], whole[part], rtol=0, atol=0)
    losses = [[row["train/loss"] for row in history(run)] for run in (tmp_path / "run", trained[0])]
    assert [loss for loss in losses[0] if loss] == [loss for loss in losses[1] if loss]
    assert len({loss for loss in losses[1] if loss}) == 6


def test_a_loaded_classifier_classifies(trained):
    model = load_model(compose("evaluate", [f"run={trained[0]}"]))
    assert model.log_prob(torch.zeros(2, 1, 8, 8), torch.tensor(0.5)).shape == (2, 10)


def test_a_classifier_cannot_be_built_as_a_model_that_draws_samples(tmp_path, configure):
    with pytest.raises(UserError, match="model=noisy_classifier draws no samples; use a diffusion model"):
        build_diffusion(configure(tmp_path / "run", *TINY, *ALONE))


def test_a_classifier_of_clean_data_has_one_accuracy(tmp_path, configure, history):
    train(configure(tmp_path / "run", *TINY[1:], *ALONE, "model=classifier", "trainer.max_steps=2"))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]
    assert metrics.keys() == {"accuracy", "cross_entropy", "accuracy_t_0"}
    assert not any("_q" in name for name in history(tmp_path / "run")[0])


def test_data_without_labels_is_refused(configure, tmp_path):
    with pytest.raises(UserError, match="at least 2 classes"):
        train(configure(tmp_path / "run", *TINY, "backbone.num_classes=null"))
