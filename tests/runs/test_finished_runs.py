"""A finished run is sampled and measured from its directory alone."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from diffsweep import load, pictures, shell
from diffsweep.configuration.compose import compose
from diffsweep.configuration.loading import load_model
from diffsweep.errors import UserError
from diffsweep.runs.commands import evaluate, sample
from diffsweep.runs.training import train
from diffsweep.tasks.drawing import draw

METRICS = ("metrics=digits", "metrics.kid_subset_size=8", "metrics.reference=train", "num_samples=8")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sample_writes_images_a_grid_and_the_trajectory(command, finished, tmp_path):
    out = tmp_path / "out"
    done = command("sample", f"run={finished}", "num_samples=5", "sampler=ddim", "sampler.steps=3", f"output={out}")
    assert done.code == 0, done.err
    with np.load(out / "samples.npz") as content:
        images = content["arr_0"]
    assert images.dtype == np.uint8
    assert images.shape == (5, 8, 8, 1)
    cfg = compose("sample", [f"run={finished}", "sampler=ddim", "sampler.steps=3"])
    expected = draw(load_model(cfg), 5, seed=5, batch_size=5).x
    assert np.array_equal(images, pictures.to_uint8(expected))
    with Image.open(out / "grid.png") as grid:
        drawn = pictures.grid(expected, title="samples by DDIM in 3 steps")
        assert np.array_equal(np.asarray(grid), np.asarray(drawn))
    with Image.open(out / "trajectory.gif") as animation:
        assert animation.n_frames == 3
    assert "ddim in 3 steps" in done.out
    assert str(out / "samples.npz") in done.out


def test_labels_are_beside_the_samples_as_public_evaluators_expect(finished_clips, tmp_path):
    words = [f"run={finished_clips}", "num_samples=3", "conditioning.labels=[7,2]", f"output={tmp_path}", "trainer=cpu"]
    sample(compose("sample", [*words, "sampler=ddim", "sampler.steps=2"]))
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as content:
        assert content.files == ["arr_0", "arr_1"]
        assert (content["arr_0"].dtype, content["arr_0"].shape[0]) == (np.uint8, 3)
        assert (content["arr_1"].dtype, content["arr_1"].tolist()) == (np.int64, [7, 2, 7])
    assert (tmp_path / "requests.tsv").read_text().split() == ["label", "7", "2", "7"]


def test_by_default_samples_land_in_the_run(command, finished, tmp_path):
    directory = shutil.copytree(finished, tmp_path / "run")
    for _ in range(2):  # in the same second
        assert command("sample", f"run={directory}", "num_samples=1").code == 0
    assert len(list(directory.glob("sample/*/samples.npz"))) == 2
    assert not list((tmp_path / "here").iterdir())


def test_the_command_line_replaces_the_runs_choices_and_all_else_stays(finished):
    cfg = compose("evaluate", [f"run={finished}", "sampler=ddim", "sampler.steps=7"])
    saved = OmegaConf.load(finished / "config.yaml")
    assert (cfg.sampler._target_, cfg.sampler.steps, cfg.choices.sampler) == ("diffsweep.samplers.DDIM", 7, "ddim")
    assert "eta" in cfg.sampler
    for group in saved.choices:
        if group in cfg and group not in ("sampler", "paths", "logger"):
            unresolved = [OmegaConf.to_container(c[group], resolve=False) for c in (cfg, saved)]
            assert unresolved[0] == unresolved[1], group
            assert cfg.choices[group] == saved.choices[group]
    assert (cfg.schedule._target_, cfg.schedule.num_steps) == ("diffsweep.schedules.Linear", 500)
    assert (cfg.seed, cfg.choices.prediction, cfg.backbone.channels) == (5, "v", 8)


def test_a_single_key_changes_nothing_else(finished):
    cfg = compose("sample", [f"run={finished}", "sampler.steps=9", "seed=1"])
    assert (cfg.sampler._target_, cfg.sampler.steps, cfg.seed) == ("diffsweep.samplers.Ancestral", 9, 1)
    assert (cfg.dataset.seed, cfg.model.seed) == (1, 1)  # interpolations still flow
    assert cfg.choices.sampler == "ancestral"


def weights(cfg):
    return load_model(cfg).state_dict()


@pytest.mark.parametrize("form", ["relative", "absolute", "slash", "dotted"])
def test_a_directory_can_be_given_in_any_form(form, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(finished.parent)
    word = {
        "relative": finished.name,
        "absolute": str(finished),
        "slash": f"{finished}/",
        "dotted": f"../{finished.parent.name}/{finished.name}",
    }[form]
    cfg = compose("sample", [f"run={word}", "sampler=ddim"])
    assert (cfg.schedule.num_steps, cfg.seed) == (500, 5)
    expected = weights(compose("sample", [f"run={finished}"]))
    assert all(torch.equal(part, expected[name]) for name, part in weights(cfg).items())


def test_a_moved_run_loads(finished, here):
    directory = shutil.copytree(finished, here / "elsewhere" / "moved run")
    cfg = compose("sample", [f"run='{directory}'"])
    assert cfg.paths.run_dir == str(directory)
    expected = weights(compose("sample", [f"run={finished}"]))
    assert all(torch.equal(part, expected[name]) for name, part in weights(cfg).items())


def test_samples_are_of_the_average(finished, checkpoint):
    """They are neither of the weights that train nor of the best checkpoint."""
    saved, loaded = checkpoint(finished), weights(compose("sample", [f"run={finished}"]))
    average = saved["ema"]["weights"]
    assert any(not torch.equal(average[name], saved["state_dict"][name]) for name in average)
    assert all(torch.equal(loaded[name], average[name]) for name in average)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_samples_do_not_depend_on_the_batch_size(finished, sampler):
    model = load_model(compose("sample", [f"run={finished}", f"sampler={sampler}", "sampler.steps=3"]))
    whole, parts = (draw(model, 7, 0, size).x for size in (7, 3))
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-4)
    assert (whole[0] - whole[3]).abs().max() > 0.1
    assert (whole - draw(model, 7, 1, 7).x).abs().max() > 0.1


def test_a_loaded_model_is_in_evaluation_mode(finished):
    """It stays so after sampling, without gradients and dropout."""
    model = load_model(compose("sample", [f"run={finished}"]))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_evaluate_writes_numbers_with_their_protocol(command, finished, tmp_path):
    out = tmp_path / "out"
    done = command("evaluate", f"run={finished}", *METRICS, f"output={out}")
    assert done.code == 0, done.err
    content = json.loads((out / "metrics.json").read_text())
    assert content.keys() == {"metrics", "protocol", "protocol_id"}
    assert {"fid", "is", "kid", "images_per_second"} <= content["metrics"].keys()
    assert all(np.isfinite(value) for value in content["metrics"].values())
    protocol = content["protocol"]
    assert (protocol["num_samples"], protocol["sampler"], protocol["steps"]) == (8, "Ancestral", 4)
    assert (protocol["seed"], protocol["precision"], protocol["reference"]) == (5, "32-true", "train")
    assert protocol["features_sha256"]
    assert (out / "grid.png").exists()
    assert "FID" in done.out
    assert f"{content['metrics']['fid']:.3f}" in done.out
    assert "biased" in done.out  # 8 samples, 64 features


def evaluated(finished, out, *overrides):
    fid = evaluate(compose("evaluate", [f"run={finished}", *METRICS, f"output={out}", *overrides]))
    content = json.loads((out / "metrics.json").read_text())
    assert fid == content["metrics"]["fid"]
    return content


@pytest.mark.slow
def test_equal_protocols_have_equal_ids_and_others_do_not(finished, tmp_path):
    places = (f"paths.output_dir={tmp_path}",)
    first = evaluated(finished, tmp_path / "a", *places)
    second = evaluated(finished, tmp_path / "b", *places)
    assert first["protocol_id"] == second["protocol_id"]
    assert first["protocol"] == second["protocol"]
    assert first["metrics"]["fid"] == second["metrics"]["fid"]
    ids = {first["protocol_id"]}
    others = (
        "sampler.steps=3",
        "sampler=ddim",
        "seed=6",
        "num_samples=9",
        "metrics.reference=all",
        "sampler.clip=none",
    )
    for index, other in enumerate(others):
        ids.add(evaluated(finished, tmp_path / str(index), *places, other)["protocol_id"])
    assert len(ids) == 1 + len(others)


def test_another_network_is_refused(finished):
    with pytest.raises(UserError, match="do not fit this model"):
        load_model(compose("sample", [f"run={finished}", "backbone.channels=16"]))


def test_sample_returns_its_folder(finished, tmp_path):
    cfg = compose("sample", [f"run={finished}", "num_samples=2", f"output={tmp_path / 'out'}"])
    assert sample(cfg) == tmp_path / "out"
    assert (tmp_path / "out" / "samples.npz").exists()


def test_a_seed_decides_the_samples(finished, tmp_path):
    images = []
    for seed in (0, 0, 1):
        cfg = compose("sample", [f"run={finished}", "num_samples=2", f"output={tmp_path / 'out'}", f"seed={seed}"])
        images.append(np.load(sample(cfg) / "samples.npz")["arr_0"])
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_a_sweep_over_samplers_of_a_run(command, finished, tmp_path):
    done = command(
        "sample", f"run={finished}", "sampler=ddim,ancestral", "num_samples=1", f"output={tmp_path / 'out'}", "-m"
    )
    assert done.code == 0, done.err
    found = sorted(path.parent.name for path in tmp_path.rglob("samples.npz"))
    assert found == ["0_sampler-ddim", "1_sampler-ancestral"]


def test_a_sweep_of_evaluations_ends_with_a_table_and_a_plot(command, finished, tmp_path):
    out = tmp_path / "sweep"
    done = command(
        "evaluate", "-m", f"run={finished}", "sampler=ddim,heun", "sampler.steps=2,3", f"output={out}", *METRICS
    )
    assert done.code == 0, done.err
    header, *rows = (line.split(",") for line in (out / "results.csv").read_text().splitlines())
    assert header[:3] == ["job", "fid", "is"]
    evaluations = [float(row[header.index("network_evaluations")]) for row in rows]
    assert evaluations == [2, 3, 3, 5]  # Heun's last step is Euler's
    for (job, fid, *_), path in zip(rows, sorted(out.glob("*/metrics.json")), strict=True):
        assert path.parent.name.endswith(job)
        assert float(fid) == pytest.approx(json.loads(path.read_text())["metrics"]["fid"], rel=1e-3)
        assert job in done.out
    assert (out / "fid.png").stat().st_size > 5_000
    assert str(out / "results.csv") in done.out


@pytest.mark.slow
def test_printed_commands_can_be_pasted_whatever_the_directory_is_named(command, fast, checkpoint):
    """Train, resume, sample and load with printed commands, as a shell reads them."""
    name = "my runs, a=b (1)/it's $HOME"
    directory = f'hydra.run.dir="{name}"'
    done = command("train", *fast, directory, "trainer.max_steps=2")
    (line,) = [line for line in done.out.splitlines() if line.startswith("  next ")]
    _, _, script, *arguments = shlex.split(line)
    assert Path(script).name == "sample.py"
    assert command("sample", *arguments, "num_samples=1", "sampler.steps=2").code == 0
    taken = command("train", *fast, directory)
    assert taken.code == 2
    assert (resume := shell.typed("resume", name)) in taken.err
    assert command("train", *shlex.split(resume), "trainer.max_steps=3").code == 0
    assert checkpoint(name)["global_step"] == 3
    assert load(name).sample(1).shape == (1, 1, 8, 8)


def test_the_first_file_of_a_kind_that_exists_has_the_name_of_its_kind(tmp_path, configure, capsys):
    """A run without metrics has no metrics.json."""
    train(configure(tmp_path / "run", "metrics=none"))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows if row and row[-1].endswith("metrics.csv")] == ["numbers"]
