"""A run that keeps snapshots of averages is measured and sampled with averages of other widths."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from diffsweep.callbacks import EMA, PowerAverages
from diffsweep.callbacks.power_averages import reconstruction, snapshots
from diffsweep.configuration.compose import compose
from diffsweep.configuration.loading import load_model
from diffsweep.configuration.rules.averages import one_profile_is_of_one_training
from diffsweep.errors import UserError
from diffsweep.models import DiffusionModel, ProgressiveDistillation
from diffsweep.runs.training import train
from diffsweep.tensor_files import read_tensors

PICTURES = ("callbacks.sample_grid.num_samples=1", "callbacks.sample_grid.steps=1")
MEASURED = ("metrics=digits", "metrics.kid_subset_size=8", "metrics.reference=train", "num_samples=8")
STEPS = ("sampler=ddim", "sampler.steps=2", "trainer.accelerator=cpu")


@pytest.fixture(scope="module")
def kept(tmp_path_factory, configure):
    """The directory of a run of four steps with snapshots after each; tests must not change it."""
    directory = tmp_path_factory.mktemp("runs") / "kept"
    small = ("callbacks=post_hoc", *PICTURES, "callbacks.averages.snapshot_every=1", "backbone.channels=8")
    train(configure(directory, *small))
    return directory


def test_a_model_has_the_average_that_is_requested(kept, capsys):
    """One that was tracked is that of its file to the bit; what has no average is as in the checkpoint."""
    models = [load_model(compose("sample", [f"run={kept}", "trainer=cpu", *words])) for words in ([], ["ema=0.1"])]
    assert "warning" not in capsys.readouterr().err
    saved = torch.load(snapshots(kept / "ema")[-1].path, weights_only=True)
    usual, made = (dict(model.state_dict()) for model in models)
    assert (saved["step"], saved["width"]) == (4, 0.1)
    for name, weight in made.items():
        assert torch.equal(weight, saved["weights"].get(name, usual[name]))
    assert any(not torch.equal(made[name], usual[name]) for name in saved["weights"])


def test_a_sweep_over_widths_reports_the_error_of_each(kept, command, tmp_path):
    done = command("evaluate", "-m", f"run={kept}", "ema=0.05,0.15", *MEASURED, *STEPS, f"output={tmp_path / 'out'}")
    assert done.code == 0, done.err
    found = {}
    for path in (tmp_path / "out").glob("*/metrics.json"):
        found[path.parent.name.partition("ema-")[2]] = json.loads(path.read_text())["metrics"]["ema_error"]
    assert found == {"0.05": 0, "0.15": reconstruction(kept, 0.15).error}
    assert f"relative error of its profile {found['0.15']:.2%}" in done.out
    assert "error of the EMA profile" in done.out


def test_samples_are_drawn_with_a_reconstructed_average(kept, command, tmp_path):
    done = command("sample", f"run={kept}", "ema=0.2", "num_samples=2", *STEPS, f"output={tmp_path / 'out'}")
    assert done.code == 0, done.err
    (warning,) = (line for line in done.err.splitlines() if line.startswith("warning"))
    assert "ema=0.2: 8 snapshots are too few for this width, and the relative error of its profile is 20 %" in warning
    assert warning.endswith("take one near 0.05 or 0.1, or train with a smaller callbacks.averages.snapshot_every")
    assert "ema=0.2: the average at step 4, of 8 snapshots; relative error of its profile" in done.out


def test_an_average_is_exported_and_the_card_names_it(kept, command, tmp_path):
    """The metrics of the run are those of other weights: the card states it, and the hub reads none of them."""
    run, folder = tmp_path / "run", tmp_path / "out"
    shutil.copytree(kept, run)
    (run / "metrics.json").write_text('{"metrics": {"fid": 3.0}}')
    words = ("format=safetensors", "trainer=cpu", f"output={folder}")
    done = command("export", f"run={run}", "ema=0.1", "weights=raw", *words)
    assert (done.code, folder.exists()) == (2, False)
    assert done.err == "error: ema=0.1 is an average, and weights=raw are those that train; leave one out\n"
    done = command("export", f"run={run}", "ema=0.1", *words)
    assert done.code == 0, done.err
    written, saved = load_file(folder / "model.safetensors"), read_tensors(snapshots(run / "ema")[-1].path)
    assert all(torch.equal(written[name], weight) for name, weight in saved["weights"].items())
    card = (folder / "README.md").read_text()
    average = "ema=0.1: the average at step 4, of 8 snapshots; relative error of its profile 0.00%"
    assert f"The weights are an average made after training ({average})." in card
    assert average in done.out
    assert "model-index" not in card
    assert "and not with these weights" in card


def test_a_run_without_snapshots_is_refused_before_a_folder_is_made(finished, command, tmp_path):
    done = command("evaluate", f"run={finished}", "ema=0.1", *MEASURED, f"output={tmp_path / 'out'}")
    assert done.code == 2
    assert "has kept none up to step 4; train with callbacks=post_hoc" in done.err
    assert "[rule the_average_is_made_of_snapshots]" in done.err
    assert not (tmp_path / "out").exists()


def test_a_model_of_several_rounds_keeps_no_average_over_them(tmp_path):
    cfg = OmegaConf.create({"choices": {"callbacks": "post_hoc", "model": "progressive_distillation"}})
    callbacks = {"averages": PowerAverages(str(tmp_path))}
    parts = [SimpleNamespace(model=model, callbacks=callbacks) for model in (DiffusionModel, ProgressiveDistillation)]
    assert one_profile_is_of_one_training(cfg, parts[0]) is None
    assert one_profile_is_of_one_training(cfg, parts[1]).endswith("use callbacks=default")
    parts[1].callbacks = {"ema": EMA()}
    assert one_profile_is_of_one_training(cfg, parts[1]) is None


def test_averages_do_not_end_when_a_run_is_resumed(kept, resume):
    with pytest.raises(UserError, match=r"this training does not keep them \(callbacks\.averages\)"):
        train(resume(kept, "trainer.max_steps=6", "callbacks=minimal"))
