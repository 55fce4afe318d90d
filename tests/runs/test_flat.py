"""Configurations as flat keys, and what of them is not default."""

import json
import os

from diffsweep.configuration.build import sized
from diffsweep.configuration.compose import compose
from diffsweep.configuration.flat import differences, flat, without_folders


def test_every_value_is_the_one_that_its_key_sets():
    """Typing all keys of one run into the command gives the run again."""
    words = ("model=ldm", "backbone=dit", "schedule=linear", "optimizer.lr=0.25", "seed=4", "logger=csv")
    cfg = compose("train", words)
    found = flat(cfg)
    assert (found["schedule"], found["optimizer.lr"], found["seed"], found["backbone"]) == ("linear", 0.25, 4, "dit")
    options = [f"{key}={value}" for key, value in found.items() if key in cfg.choices]
    derived = ("space", "condition")
    values = [
        f"{key}={json.dumps(value)}"
        for key, value in found.items()
        if "." in key and key.partition(".")[0] not in derived and isinstance(value, bool | int | float)
    ]
    assert len(values) > 60
    assert flat(compose("train", [*options, *values, "logger=csv", "seed=4"])) == found


def test_secrets_of_the_environment_and_folders_stay_at_home(monkeypatch):
    monkeypatch.setenv("A_SECRET", "hush-4711")
    monkeypatch.setenv("A_SIZE", "4711")
    cfg = compose(
        "train",
        [
            "paths.cache_dir=${oc.env:A_SECRET}",
            "callbacks.sample_grid.folder=${oc.env:A_SECRET}/pictures",
            "model=ldm",
            "autoencoder.run=/home/someone/runs/first",
        ],
    )
    assert "hush" in cfg.metrics.cache_dir
    text = json.dumps(flat(sized(cfg))) + json.dumps(differences(cfg))
    assert "hush" not in text
    assert "/home" not in text
    assert os.getcwd() not in text
    assert flat(cfg)["autoencoder.run"] == "first"
    assert "metrics.cache_dir" not in flat(cfg)
    assert flat(cfg)["callbacks.sample_grid.folder"] == "(from the environment)"


def test_a_path_is_recognised_within_a_text():
    assert without_folders("dataset.path=/data/a b/train.parquet") == "dataset.path=a b/train.parquet"
    assert without_folders("/data/train.parquet") == "train.parquet"
    assert without_folders("~/data/x") == "x"
    assert (
        without_folders("outputs/train/x and https://hub.co/a/b, 1/2") == "outputs/train/x and https://hub.co/a/b, 1/2"
    )


def test_what_differs_is_what_was_typed():
    def of(*words):
        return differences(compose("train", [*words, "logger=csv", "paths.output_dir=/tmp/elsewhere"]))

    assert of() == {}
    assert of("schedule=linear", "optimizer.lr=0.02", "seed=3") == {
        "schedule": "linear",
        "optimizer.lr": 0.02,
        "seed": 3,
    }
    assert of("model=improved_ddpm") == {"model": "improved_ddpm"}
    assert of("model=ldm", "backbone=dit", "debug=fast") == {"debug": "fast", "model": "ldm", "backbone": "dit"}
    assert of("experiment=shapes_text", "trainer.max_steps=7", "trainer.accelerator=cpu") == {
        "experiment": "shapes_text",
        "trainer.max_steps": 7,
    }
    assert of("model=ldm", "autoencoder.run=outputs/stages/autoencoder_kl_12") == {"model": "ldm"}


def test_what_differs_from_a_run_is_what_was_typed(finished):
    words = [f"run={finished}", "sampler=ddim", "sampler.steps=7", "seed=1", "likelihood=bound"]
    assert differences(compose("evaluate", words), str(finished)) == {
        "likelihood": "bound",
        "sampler": "ddim",
        "seed": 1,
    }
    assert differences(compose("sample", [f"run={finished}", "sampler.steps=7"]), str(finished)) == {"sampler.steps": 7}
    assert differences(compose("sample", [f"run={finished}", "task=edit"]), str(finished)) == {"task": "edit"}
    assert differences(compose("sample", [f"run={finished}"]), str(finished)) == {}
