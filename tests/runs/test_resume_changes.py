"""Whatever changes when a run is resumed takes effect in the running training, or is refused by name."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from lightning import Callback
from omegaconf import OmegaConf

from diffsweep.callbacks import EMA
from diffsweep.configuration.compose import compose
from diffsweep.configuration.resuming import TABLE, OnResume, changes, refuse, row_of
from diffsweep.configuration.saved import load_config
from diffsweep.errors import UserError
from diffsweep.files import owned
from diffsweep.models import DiffusionModel
from diffsweep.runs import training
from diffsweep.runs.commands import sample
from diffsweep.runs.training import train

STEPS = ("trainer.max_steps=4", "trainer.val_check_interval=100", "lr_scheduler.warmup_steps=10")
BEFORE = Path(__file__).parent / "before"


class Watch(Callback):
    """Record the optimizer's settings, the positions and the trainer of each training batch."""

    def __init__(self):
        self.settings, self.positions, self.trainer = [], [], None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        (group,) = trainer.optimizers[0].param_groups
        self.settings.append({name: value for name, value in group.items() if name != "params"})
        self.positions += batch["position"].tolist()
        self.trainer, self.model = trainer, pl_module


@pytest.fixture
def watch(monkeypatch):
    """A callback that watches all trainings of the test."""
    watch, make = Watch(), training.make_trainer
    monkeypatch.setattr(
        training, "make_trainer", lambda cfg, callbacks, *others: make(cfg, [*callbacks, watch], *others)
    )
    return watch


@pytest.fixture(scope="module")
def first(tmp_path_factory, configure):
    """The directory of a run of four steps; tests must not change it."""
    directory = tmp_path_factory.mktemp("first") / "run"
    train(configure(directory, *STEPS))
    return directory


@pytest.fixture
def run(first, tmp_path):
    return Path(shutil.copytree(first, tmp_path / "run"))


def test_all_that_takes_effect_is_in_the_running_training(run, resume, watch, history):
    """Optimizer, schedule, average, clip, batches, and the record of them in the run."""
    typed = {
        "optimizer.lr": 0.0004,
        "optimizer.betas": [0.8, 0.95],
        "optimizer.weight_decay": 0.25,
        "lr_scheduler.warmup_steps": 8,
        "callbacks.ema.decay": 0.5,
        "trainer.gradient_clip_val": 0.125,
        "trainer.val_check_interval": 6,
        "trainer.log_every_n_steps": 1,
        "trainer.accumulate_grad_batches": 2,
        "dataset.batch_size": 8,
        "backbone.dropout": 0.3,
        "sampler.steps": 3,
        "trainer.max_steps": 7,
        "trainer.precision": "bf16-mixed",
    }
    words = [f"{key}={json.dumps(value).replace(' ', '')}" for key, value in typed.items()]
    train(resume(run, *words, "+optimizer.eps=1e-6"))
    first, *_ = watch.settings
    assert list(first["betas"]) == [0.8, 0.95]
    assert (first["weight_decay"], first["eps"], first["initial_lr"]) == (0.25, 1e-6, 0.0004)
    assert [row["lr"] for row in watch.settings[::2]] == pytest.approx([0.0004 * k / 8 for k in (5, 6, 7)], rel=1e-12)
    (ema,) = [callback for callback in watch.trainer.callbacks if isinstance(callback, EMA)]
    assert ema.decay == 0.5
    assert watch.trainer.gradient_clip_val == 0.125
    assert watch.trainer.global_step == 7
    assert str(watch.trainer.precision) == "bf16-mixed"
    rates = {module.p for module in watch.model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.3}
    assert watch.positions == list(range(4 * 32, 4 * 32 + 3 * 2 * 8))
    assert [int(row["step"]) for row in history(run) if row["val/loss"]] == [4, 6]
    saved = load_config(run)
    for key, value in typed.items():
        assert OmegaConf.select(saved, key) == value, key
    rows = [json.loads(line) for line in (run / "changes.jsonl").read_text().splitlines()]
    assert {row["key"]: row["new"] for row in rows} == {**typed, "optimizer.eps": 1e-6}
    assert {row["step"] for row in rows} == {4}
    assert {row["key"]: row["old"] for row in rows}["optimizer.lr"] == 0.002


def test_a_new_rate_is_that_of_a_run_whose_rate_was_set_by_hand(
    run, resume, tmp_path, configure, monkeypatch, checkpoint
):
    """Weights, average and optimizer are equal bit by bit after four steps and four more."""
    train(resume(run, "optimizer.lr=0.01", "optimizer.weight_decay=0.1", "trainer.max_steps=8"))
    original = DiffusionModel.on_train_batch_start

    def on_train_batch_start(self, *arguments):
        if self.global_step == 4:
            (group,) = self.trainer.optimizers[0].param_groups
            group.update(lr=0.01 * 5 / 10, initial_lr=0.01, weight_decay=0.1)
            self.trainer.lr_scheduler_configs[0].scheduler.base_lrs = [0.01]
        original(self, *arguments)

    monkeypatch.setattr(DiffusionModel, "on_train_batch_start", on_train_batch_start)
    train(configure(tmp_path / "hand", *STEPS, "trainer.max_steps=8"))
    ours, by_hand = checkpoint(run), checkpoint(tmp_path / "hand")
    for part in ("state_dict", "ema", "optimizer_states"):
        torch.testing.assert_close(ours[part], by_hand[part], rtol=0, atol=0)


@pytest.mark.slow
def test_half_the_batch_twice_as_often_is_the_same_run(run, resume, tmp_path, configure, checkpoint, watch):
    """The order of samples goes on, and the weights are equal within rounding."""
    train(resume(run, "dataset.batch_size=16", "trainer.accumulate_grad_batches=2", "trainer.max_steps=6"))
    resumed = list(watch.positions)
    train(configure(tmp_path / "whole", *STEPS, "trainer.max_steps=6"))
    assert resumed == list(range(128, 192))
    ours, whole = checkpoint(run), checkpoint(tmp_path / "whole")
    assert ours["position"] == whole["position"] == 192
    torch.testing.assert_close(ours["state_dict"], whole["state_dict"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_batch_size_can_change_again(run, resume, watch):
    train(resume(run, "dataset.batch_size=8", "trainer.max_steps=5"))
    train(resume(run, "dataset.batch_size=12", "trainer.max_steps=6"))
    train(resume(run, "trainer.max_steps=7"))
    assert watch.positions == list(range(128, 128 + 8 + 12 + 12))


REFUSED = {  # a key of each row that is refused, with another value
    "optimizer._target_": "torch.optim.SGD",
    "backbone.channels": 16,
    "schedule.s": 0.01,
    "prediction.variance": "fixed_large",
    "objective.loss": "l1",
    "seed": 1,
    "model.val_repeats": 2,
    "trainer.limit_val_batches": 2,
    "trainer.precision": "bf16-true",
    "conditioning.labels": [1],
    "time_sampling._target_": "diffsweep.diffusion.Stratified",
    "dataset.class_names": ["a"],
    "autoencoder.channels": 3,
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_cannot_take_effect_is_refused_by_name(key, run):
    cfg = load_config(run)
    OmegaConf.update(cfg, key, REFUSED[key], force_add=True)
    cfg.resume_from = cfg.paths.run_dir = str(run)
    cfg.trainer.max_steps = 8
    before = (run / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=rf"^{key}: .* -> .* cannot change when a run is resumed"):
        training.Resumption(cfg)
    assert (run / "config.yaml").read_bytes() == before


def test_with_buckets_another_batch_size_is_refused(run):
    """A position in the order of buckets is that of a whole batch; batches of another size begin at none."""
    saved, cfg = load_config(run), load_config(run)
    for each in (saved, cfg):
        OmegaConf.update(each, "dataset.buckets", 8, force_add=True)
        each.trainer.max_steps = 8
    cfg.dataset.batch_size, cfg.trainer.accumulate_grad_batches = 16, 2
    found = changes(saved, cfg)
    assert [change.key for change in found] == ["trainer.accumulate_grad_batches", "dataset.batch_size"]
    with pytest.raises(UserError, match=r"^dataset.batch_size: 32 -> 16 cannot change .*dataset.buckets=8"):
        refuse(found, saved, cfg, step=4)
    refuse(found, saved, cfg, step=0)
    refuse(found[:1], saved, cfg, step=4)


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("schedule=linear", "schedule: cosine -> linear"),
        ("backbone=uvit", "backbone: unet -> uvit"),
        ("prediction=v", "prediction: eps -> v"),
        ("optimizer=adam", "optimizer: adamw -> adam"),
    ],
)
def test_another_option_is_refused_and_nothing_is_written(word, shown, run, resume):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=rf"^{shown} cannot change when a run is resumed"):
        train(resume(run, word, "trainer.max_steps=8"))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_every_row_that_refuses_is_tried():
    tried = {row_of(key) for key in REFUSED}
    assert {row for row in TABLE if row.effect is not OnResume.TAKEN} <= tried


def test_an_unchanged_configuration_has_no_changes(run, resume):
    assert changes(load_config(run), resume(run)) == []


@pytest.mark.parametrize("steps", [2, 4])
def test_a_run_that_is_past_the_steps_ends_with_a_line(steps, run, resume):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=rf"^at step 4 already, and trainer.max_steps={steps}"):
        train(resume(run, f"trainer.max_steps={steps}", "optimizer.lr=1e-5"))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def edited(run, change):
    path = run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def name_of(content):
    return next(iter(content["state_dict"]))


BAD = {
    "missing": (lambda c: c["state_dict"].pop(name_of(c)), "it has no weight"),
    "extra": (lambda c: c["state_dict"].update(more=torch.zeros(1)), "it has a weight more, which the model does not"),
    "shape": (lambda c: c["state_dict"].update({name_of(c): torch.zeros(3, 1)}), r"has the shape \[3, 1\]"),
    "newer": (lambda c: c.update(format=99), "has format 99, of a newer diffsweep"),
    "no average": (lambda c: c.pop("ema"), "has no average of the weights"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_first_difference(kind, run, resume):
    change, message = BAD[kind]
    edited(run, change)
    before = (run / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=message) as error:
        train(resume(run, "trainer.max_steps=8"))
    assert "\n" not in str(error.value)
    assert (run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("release", "steps"), [pytest.param("weak", 1, marks=pytest.mark.slow), ("release_0.2.0", 2)]
)  # the first is of 0.1.0
def test_a_run_of_an_older_release_goes_on_where_its_data_were(release, steps, tmp_path, resume, watch, checkpoint):
    """They saved no position of the data: it follows from the steps and the size of their batches."""
    run = Path(shutil.copytree(BEFORE / release, tmp_path / "run"))
    train(resume(run, f"trainer.max_steps={steps + 2}", "dataset.batch_size=4", "logger=csv"))
    position = 8 * steps
    assert watch.positions == list(range(position, position + 8))
    assert (checkpoint(run)["global_step"], checkpoint(run)["position"]) == (steps + 2, position + 8)


@pytest.mark.slow
def test_two_devices_go_on_where_one_was(run, process, tmp_path, resume, checkpoint, configure):
    """Each of two processes takes half of the batch: the order of samples goes on, weights agree within rounding."""
    words = ("trainer=ddp", "trainer.accelerator=cpu", "dataset.batch_size=16", "trainer.max_steps=6")
    done = process("train", f"resume={run}", *words, cwd=tmp_path, timeout=500)  # two processes begin, one by one
    assert done.returncode == 0, done.stderr
    train(configure(tmp_path / "whole", *STEPS, "trainer.max_steps=6"))
    ours, whole = checkpoint(run), checkpoint(tmp_path / "whole")
    assert ours["position"] == whole["position"] == 192
    torch.testing.assert_close(ours["state_dict"], whole["state_dict"], rtol=1e-4, atol=1e-6)


def test_a_run_that_is_trained_is_refused_by_name_and_can_be_sampled(run, resume, tmp_path):
    """The second process that resumes it changes no file; sampling needs no lock."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    cfg = resume(run, "trainer.max_steps=8")
    with owned(run / ".lock"):
        with pytest.raises(UserError, match=r"run is trained by another process now"):
            train(cfg)
        cfg.resume_from, cfg.sweep = None, "sweep"  # a job of a sweep, which begins a run without checkpoint anew
        with pytest.raises(UserError, match=r"run is trained by another process now"):
            train(cfg)
        sample(compose("sample", [f"run={run}", "num_samples=1", "sampler.steps=1", f"output={tmp_path / 'samples'}"]))
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert after == before
    assert (tmp_path / "samples" / "samples.npz").is_file()
