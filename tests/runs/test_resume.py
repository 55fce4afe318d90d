"""A run that was stopped and resumed equals the uninterrupted run bit by bit."""

import os
import shutil
import signal

import pytest
import torch

from diffsweep.errors import Stopped, UserError
from diffsweep.models import DiffusionModel
from diffsweep.runs.training import train

# 1500 training digits are 6 batches: step 4 is in the middle of an epoch, and step 8 in the middle of the next.
RUN = (
    "dataset.batch_size=250",
    "backbone.channel_mult=[1]",
    "backbone.attention_resolutions=[]",
    "trainer.val_check_interval=1000",
    "trainer.log_every_n_steps=1",
    "trainer.limit_val_batches=1",
    "model.val_repeats=1",
    "lr_scheduler.warmup_steps=6",
)
VARIANTS = {
    "plain": (),
    "two workers": ("dataset.num_workers=2",),
    "dropout, validation": ("backbone.dropout=0.3", "trainer.val_check_interval=2"),
    "accumulated, attention": (
        "trainer.accumulate_grad_batches=2",
        "dataset.batch_size=125",
        "backbone.dropout=0.3",
        "backbone.attention_resolutions=[8]",
    ),
    "accumulated, validation": ("trainer.accumulate_grad_batches=2", "trainer.val_check_interval=3"),
    "late average": ("callbacks.ema.start=5",),
}

SLOW = ("late average", "accumulated, validation", "accumulated, attention", "two workers")


def same(a, b, path=""):
    """Assert that two values are equal bit by bit, through dicts and lists."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, path
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for index, pair in enumerate(zip(a, b, strict=True)):
            same(*pair, f"{path}/{index}")
    else:
        assert a == b, path


def same_run(a, b):
    for part in ("global_step", "state_dict", "ema", "optimizer_states", "lr_schedulers"):
        same(a[part], b[part], part)


@pytest.fixture
def stop_at(monkeypatch):
    """``stop_at(step, number, batch=0)``: send this process a signal in the middle of a training step."""
    original = DiffusionModel.training_step

    def stop_at(step, number, batch=0):
        left = [batch]

        def training_step(self, *arguments):
            if self.global_step == step - 1 and left[0] >= 0:
                if left[0] == 0:
                    os.kill(os.getpid(), number)
                left[0] -= 1
            return original(self, *arguments)

        monkeypatch.setattr(DiffusionModel, "training_step", training_step)

    return stop_at


@pytest.fixture(scope="module")
def whole(tmp_path_factory, configure):
    """``whole(variant)``: the directory of an uninterrupted run of 8 steps."""
    made = {}

    def whole(variant):
        if variant not in made:
            made[variant] = tmp_path_factory.mktemp("whole") / "run"
            train(configure(made[variant], *RUN, "trainer.max_steps=8", *VARIANTS[variant]))
        return made[variant]

    return whole


@pytest.mark.parametrize("variant", [pytest.param(v, marks=pytest.mark.slow) if v in SLOW else v for v in VARIANTS])
def test_four_and_four_steps_are_eight(variant, tmp_path, configure, resume, whole, checkpoint, history):
    """Weights, average, optimizer and every logged loss agree; a raised trainer.max_steps gives the second half."""
    train(configure(tmp_path / "run", *RUN, "trainer.max_steps=4", *VARIANTS[variant]))
    assert checkpoint(tmp_path / "run")["global_step"] == 4
    train(resume(tmp_path / "run", "trainer.max_steps=8"))
    same_run(checkpoint(tmp_path / "run"), checkpoint(whole(variant)))
    losses = [name for name in history(whole(variant))[0] if name.startswith(("step", "train/"))]
    rows, expected = history(tmp_path / "run"), history(whole(variant))
    assert [int(row["step"]) for row in rows] == list(range(1, 9))
    assert len({row["train/loss"] for row in expected}) == 8
    assert [[row[name] for name in losses] for row in rows] == [[row[name] for name in losses] for row in expected]


def test_workers_do_not_change_a_run(whole, checkpoint):
    same_run(checkpoint(whole("plain")), checkpoint(whole("two workers")))


def test_the_comparison_can_fail(whole, checkpoint):
    with pytest.raises(AssertionError):
        same_run(checkpoint(whole("plain")), checkpoint(whole("dropout, validation")))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, configure):
    """``stopped(variant, number, batch)``: the directory of a run that a signal stopped in its fifth step."""

    def stopped(stop_at, variant, number, batch=0):
        directory = tmp_path_factory.mktemp("stopped") / "run"
        stop_at(5, number, batch)
        with pytest.raises(Stopped) as error:
            train(configure(directory, *RUN, "trainer.max_steps=8", *VARIANTS[variant]))
        assert error.value.code == 128 + number
        return directory

    return stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_stopped_by_a_signal_and_resumed_is_never_stopped(number, stopped, stop_at, resume, whole, checkpoint, history):
    """It is stopped at step 5, which no validation follows and which is in the history too."""
    directory = stopped(stop_at, "dropout, validation", number)
    assert checkpoint(directory)["global_step"] == 5
    train(resume(directory))
    same_run(checkpoint(directory), checkpoint(whole("dropout, validation")))
    assert history(directory) == history(whole("dropout, validation"))


@pytest.mark.parametrize(("batch", "saved"), [(0, 5), (1, 5)])
def test_stopped_while_gradients_accumulate_and_resumed_is_never_stopped(
    batch, saved, stopped, stop_at, resume, whole, checkpoint
):
    """A step of two batches is finished, whichever of its batches a signal arrives in."""
    directory = stopped(stop_at, "accumulated, validation", signal.SIGTERM, batch)
    assert checkpoint(directory)["global_step"] == saved
    train(resume(directory))
    same_run(checkpoint(directory), checkpoint(whole("accumulated, validation")))


@pytest.mark.slow
def test_a_loss_logged_after_a_resume_is_over_all_steps_since_the_last_log(
    tmp_path, configure, resume, history, stop_at
):
    """Losses are logged at steps 4 and 8: after a stop at 6, the row of step 8 is the mean over steps 5 to 8."""
    settings = (*RUN, "trainer.max_steps=8", "trainer.log_every_n_steps=4")
    train(configure(tmp_path / "whole", *settings))
    stop_at(6, signal.SIGTERM)
    with pytest.raises(Stopped):
        train(configure(tmp_path / "run", *settings))
    train(resume(tmp_path / "run"))
    assert history(tmp_path / "run") == history(tmp_path / "whole")


def test_the_best_validation_loss_is_remembered(tmp_path, configure, resume, checkpoint):
    """A resumed run whose validation is worse leaves best.ckpt as it was."""
    settings = (*RUN, "trainer.val_check_interval=5", "optimizer.lr=0.02", "trainer.max_steps=10")
    train(configure(tmp_path / "run", *settings))
    best = checkpoint(tmp_path / "run", "best")
    assert best["global_step"] == 10
    resumed = resume(
        tmp_path / "run", "trainer.max_steps=15", "callbacks.ema.decay=0", "trainer.gradient_clip_val=null"
    )
    original = DiffusionModel.validation_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            DiffusionModel,
            "validation_step",
            lambda self, *arguments: (original(self, *arguments), self.log_mean("val/loss", torch.full((1,), 1e9)))[0],
        )
        train(resumed)
    same(checkpoint(tmp_path / "run", "best"), best)
    assert checkpoint(tmp_path / "run")["global_step"] == 15


def test_a_finished_run_resumed_without_more_steps_stays_as_it_is(finished, tmp_path, resume, checkpoint, history):
    """It keeps its result."""
    directory = shutil.copytree(finished, tmp_path / "run")
    rows = history(directory)
    result = train(resume(directory))
    assert result == pytest.approx(float(rows[-1]["val/loss"]), rel=1e-6)
    assert history(directory) == rows
    same_run(checkpoint(directory), checkpoint(finished))


def test_a_measured_run_resumed_without_more_steps_keeps_its_history(tmp_path, configure, resume, history):
    metrics = ("metrics=digits", "metrics.num_samples=8", "metrics.kid_subset_size=8", "metrics.reference=train")
    train(configure(tmp_path / "run", *RUN, "trainer.max_steps=2", *metrics))
    before = history(tmp_path / "run")
    assert before[-1]["val/loss"]
    assert before[-1]["eval/fid"]
    train(resume(tmp_path / "run"))
    after = history(tmp_path / "run")
    kept = [name for name in before[-1] if name != "eval/images_per_second"]
    assert [[row[name] for name in kept] for row in after] == [[row[name] for name in kept] for row in before]


def test_a_resumed_run_keeps_its_choices_and_directory(finished, resume):
    cfg = resume(finished)
    assert cfg.paths.run_dir == cfg.resume_from == str(finished)
    assert (cfg.seed, cfg.schedule.num_steps, cfg.choices.schedule, cfg.choices.prediction) == (5, 500, "linear", "v")
    assert cfg.logger.mode == "disabled"


def test_a_moved_run_resumes_where_it_is(tmp_path, configure, resume, checkpoint):
    train(configure(tmp_path / "run", *RUN, "trainer.max_steps=2"))
    (tmp_path / "run").rename(tmp_path / "moved")
    train(resume(tmp_path / "moved", "trainer.max_steps=3"))
    assert checkpoint(tmp_path / "moved")["global_step"] == 3
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # three trainings
def test_a_resumed_run_can_be_resumed_again(tmp_path, configure, resume, checkpoint):
    """The saved configuration has the raised number of steps and resumes no other run."""
    train(configure(tmp_path / "run", *RUN, "trainer.max_steps=2"))
    for steps in (4, 6):
        train(resume(tmp_path / "run", f"trainer.max_steps={steps}"))
        assert checkpoint(tmp_path / "run")["global_step"] == steps
    assert resume(tmp_path / "run").trainer.max_steps == 6


def test_a_run_without_a_checkpoint_is_not_resumed(tmp_path, finished, resume):
    directory = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("*.ckpt"))
    with pytest.raises(UserError, match=r"cannot be resumed: it has no checkpoints/last\.ckpt"):
        train(resume(directory))
