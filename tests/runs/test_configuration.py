"""The configuration of a run: how it is composed, what is saved, its directory, and the functions it may call."""

import re
import shutil
from pathlib import Path

import lightning
import pytest
import torch
from composing import composed
from omegaconf import OmegaConf

from diffsweep.configuration.check import check
from diffsweep.configuration.compose import compose, compose_job
from diffsweep.configuration.jobs import jobs, swept_keys
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.resolvers import SWEPT, either, slug, sweep_name, swept
from diffsweep.configuration.saved import load_config
from diffsweep.errors import UserError
from diffsweep.runs.cli import reordered
from diffsweep.runs.training import train


@pytest.mark.parametrize(
    "overrides",
    [
        ("schedule=linear", "schedule.num_steps=7", "paths.output_dir=all"),
        ("model=improved_ddpm", "schedule=vp", "seed=3", "backbone.channels=${dataset.image_size}"),
        ("model=ldm", "autoencoder.network.channels=8", "backbone.channel_mult=[1]", "callbacks=minimal", "debug=fast"),
        ("guidance=autoguidance", 'guidance.weak.train=["trainer.max_steps=3","metrics=none"]', "trainer=cpu"),
        ("experiment=shapes_text", "trainer.max_steps=3", "conditioning.prompts=['a red circle']", "+trust=[mine]"),
    ],
)
def test_configurations_of_tests_are_those_of_users(overrides, tmp_path):
    """They are made of fewer compositions."""
    overrides = (f"hydra.run.dir={tmp_path}", *overrides)
    for _ in range(2):
        ours, users = composed("train", *overrides), compose("train", overrides)
        assert OmegaConf.to_yaml(ours) == OmegaConf.to_yaml(users)


def test_keys_of_older_runs_that_nothing_reads_are_left_out(finished, tmp_path):
    old = OmegaConf.load(finished / "config.yaml")
    parts = {"class": {"seed": "${seed}", "dropout": 0.0}}
    old.conditioning = {"_target_": "diffsweep.conditioning.Joint", "seed": "${seed}", "parts": parts}
    OmegaConf.save(old, tmp_path / "config.yaml")
    loaded = load_config(tmp_path)
    assert loaded.conditioning == {"_target_": "diffsweep.conditioning.Joint", "parts": {"class": {"dropout": 0.0}}}
    assert loaded.seed == 5
    del old["conditioning"], loaded["conditioning"]
    assert loaded == old


def test_a_saved_configuration_is_unresolved_and_complete(finished):
    text = (finished / "config.yaml").read_text()
    for line in ("backbone: ${backbone}", "seed: ${seed}", "channels: ${dataset.channels}"):
        assert line in text
    saved = OmegaConf.load(finished / "config.yaml")
    assert (saved.choices.schedule, saved.choices.prediction, saved.choices.model) == ("linear", "v", "ddpm")
    assert (saved.seed, saved.schedule.num_steps, saved.resume_from) == (5, 500, None)
    assert (saved.versions.torch, saved.versions.lightning) == (torch.__version__, lightning.__version__)
    assert {"diffsweep", "hydra-core", "omegaconf", "python"} <= saved.versions.keys()
    assert saved.git == {} or re.fullmatch("[0-9a-f]{40}", saved.git.commit)


@pytest.mark.parametrize("logger", ["csv", "wandb"])
def test_a_secret_of_the_environment_is_on_no_disk(logger, tmp_path, configure, monkeypatch):
    """The run uses its value; the files have the name of the variable alone."""
    monkeypatch.setenv("A_SECRET", "hush-4711")
    cfg = configure(tmp_path / "run", f"logger={logger}", "paths.cache_dir=${oc.env:A_SECRET}", "trainer.max_steps=1")
    assert cfg.paths.cache_dir == "hush-4711"
    train(cfg)
    assert "${oc.env:A_SECRET}" in (tmp_path / "run" / "config.yaml").read_text()
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in files if b"hush-4711" in path.read_bytes()] == []


def test_two_runs_of_the_same_second_have_their_own_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directories = {compose("train", ["logger=csv"]).paths.run_dir for _ in range(5)}
    assert len(directories) == 5
    for directory in map(Path, directories):
        assert directory.parent == tmp_path / "outputs" / "train"
        assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{4}", directory.name)


def test_paths_of_a_run_lie_in_its_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = compose("train", ["logger=csv"])
    assert cfg.trainer.default_root_dir == cfg.paths.run_dir
    assert cfg.callbacks.sample_grid.folder == f"{cfg.paths.run_dir}/samples"


def test_all_files_lie_under_output_dir(tmp_path):
    cfg = compose("train", ["logger=csv", f"paths.output_dir={tmp_path / 'all'}"])
    assert Path(cfg.paths.run_dir).parent == tmp_path / "all" / "train"
    assert cfg.paths.cache_dir == str(tmp_path / "all" / "cache")


def test_choices_compose_in_any_order():
    overrides = ("schedule=linear", "schedule.num_steps=500", "prediction=v", "model=ddpm")
    orders = (overrides, overrides[::-1], (*overrides[2:], *overrides[:2]))
    made = [compose("train", ["hydra.run.dir=a", *order]) for order in orders]
    assert all(cfg == made[0] for cfg in made)
    assert (made[0].model.schedule.num_steps, made[0].choices.prediction) == (500, "v")


def test_a_debug_preset_yields_to_the_command_line():
    cfg = compose("train", ["debug=fast", "trainer.max_steps=9"])
    assert (cfg.trainer.max_steps, cfg.trainer.val_check_interval) == (9, 2)


@pytest.mark.parametrize(
    "arguments",
    [["-m", "a=1,2", "b=3"], ["a=1,2", "-m", "b=3"], ["a=1,2", "b=3", "-m"], ["a=1,2", "b=3", "--multirun"]],
)
def test_m_may_stand_anywhere(arguments):
    assert reordered(arguments) == [next(a for a in arguments if a.startswith("-")), "a=1,2", "b=3"]


def test_jobs_are_the_product_in_order():
    expected = [["a=1", "c=9", f"b={b}"] for b in "xy"] + [["a=2", "c=9", f"b={b}"] for b in "xy"]
    assert jobs(["a=1,2", "c=9", "b=x,y", "hydra/launcher=joblib"]) == expected
    assert swept_keys(["a=1,2", "c=9", "b=x,y"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("schedule=linear", "schedule-linear"),
        ("backbone.channel_mult=[1,2]", "backbone.channel_mult-1-2"),
        ("optimizer.lr=1e-3", "optimizer.lr-1e-3"),
        ("paths.output_dir=/a/../b c", "paths.output_dir-a-..-b-c"),
        ("x" * 300, "x" * 100),
    ],
)
def test_slugs_are_safe_names(text, expected):
    assert slug(text) == expected


def test_a_job_is_named_by_what_varies(monkeypatch):
    monkeypatch.setenv(SWEPT, "schedule,seed")
    assert swept(["schedule=linear", "debug=fast", "seed=0"]) == "schedule-linear_seed-0"
    monkeypatch.setenv(SWEPT, "")
    assert swept(["debug=fast"]) == "all"


def test_a_sweep_has_one_name_however_it_is_launched():
    name = sweep_name("train", ["schedule=linear,cosine", "seed=0,1"])
    assert name == sweep_name("train", ["seed=0,1", "hydra/launcher=joblib", "schedule=linear,cosine"])
    assert re.fullmatch("train_[0-9a-f]{8}", name)
    others = [("train", ["seed=0,1"]), ("sample", ["schedule=linear,cosine", "seed=0,1"])]
    assert name not in {sweep_name(*other) for other in others}


def test_either_takes_the_second_of_null():
    assert (either(None, 2), either(1, 2), either("", 2)) == (2, 1, "")


def test_networks_of_clips_are_for_clips_and_those_of_images_for_images(compose):
    for option in ("unet3d", "dit3d"):
        with pytest.raises(
            UserError,
            match=rf"backbone={option} requires clips .*dataset=digits does not .* use dataset=moving_digits, .* or "
            "backbone=unet",
        ):
            preflight(compose(f"backbone={option}"))
        preflight(compose(f"backbone={option}", "dataset=moving_digits", "metrics=none"))
    with pytest.raises(
        UserError, match=r"provides clips .* and backbone=unet does not support that; use backbone=.*unet3d"
    ):
        preflight(compose("dataset=moving_digits", "metrics=none"))


def test_keywords_that_a_class_hands_on_are_checked(compose):
    """A 3D U-Net has keywords of its own, and passes others on to the 2D one."""
    clips = "space.num_frames=4"
    with pytest.raises(UserError, match=r"backbone\.chanels: no such key, did you mean channels"):
        check(compose("backbone=unet3d", clips, "+backbone.chanels=8"))
    with pytest.raises(UserError, match=r"backbone\.channels=wide"):
        check(compose("backbone=unet3d", clips, "backbone.channels=wide"))
    with pytest.raises(UserError, match=r"backbone\.temporal_attention=some"):
        check(compose("backbone=unet3d", clips, "backbone.temporal_attention=some"))


def test_a_run_that_is_written_anew_is_composed_anew(finished, tmp_path):
    shutil.copytree(finished, run := tmp_path / "run")
    assert compose("sample", [f"run={run}"]).seed == 5
    saved = OmegaConf.load(run / "config.yaml")
    saved.seed = 70
    OmegaConf.save(saved, run / "config.yaml")
    assert compose("sample", [f"run={run}"]).seed == 70


def test_a_run_is_made_in_the_folder_that_is_typed(tmp_path):
    cfg = compose("train", [f"paths.run_dir={tmp_path / 'mine'}"])
    assert cfg.paths.run_dir == str(tmp_path / "mine")
    assert cfg.trainer.default_root_dir == str(tmp_path / "mine")
    other = compose("train", [f"paths.output_dir={tmp_path}"])
    assert Path(other.paths.run_dir).parent == tmp_path / "train"


@pytest.mark.parametrize(("number", "part"), [(0, "hydra.sweep.dir=DIR"), (None, "a new run")])
def test_a_folder_of_one_run_is_refused_for_others(number, part, finished, tmp_path):
    words = [f"paths.run_dir={tmp_path}"] + ([f"resume={finished}"] if number is None else [])
    with pytest.raises(UserError, match=part):
        compose_job("train", words, number)
