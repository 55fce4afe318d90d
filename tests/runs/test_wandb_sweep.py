"""The sweep file for W&B: its command line trains as it is, started by a stand-in for W&B's agent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diffsweep.configuration.compose import compose
from diffsweep.configuration.conf import CONF
from diffsweep.configuration.preflight import preflight
from diffsweep.metric_table import LOWER, METRICS
from diffsweep.runs.description import run_id

wandb = pytest.importorskip("wandb")
SWEEP = OmegaConf.to_container(OmegaConf.load(CONF / "_wandb_sweep.yaml"), resolve=False)


def command_of(args):
    """Return the words by which W&B's agent starts a run, made by its own functions, and put together as it does."""
    from wandb.sdk.launch.sweeps import utils

    words = {"env": ["/usr/bin/env"], "interpreter": [sys.executable], "program": [str(CONF.parent / SWEEP["program"])]}
    words |= utils.create_sweep_command_args({"args": {key: {"value": value} for key, value in args.items()}})
    line = []
    for word in utils.create_sweep_command(list(SWEEP["command"])):
        line += words[word[2:-1]] if word.startswith("${") else [word]
    return line


def ends(parameter):
    return parameter.get("values") or [parameter["min"], parameter["max"]]


@pytest.mark.parametrize("end", [0, -1])
def test_its_parameters_are_accepted(end):
    drawn = {key: ends(parameter)[end] for key, parameter in SWEEP["parameters"].items()}
    *_, mode, lr, schedule, prediction, seed = command_of(drawn)
    cfg = compose("train", [mode, lr, schedule, prediction, seed])
    preflight(cfg)
    assert cfg.optimizer.lr == drawn["optimizer.lr"]
    assert (cfg.choices.schedule, cfg.choices.prediction) == (drawn["schedule"], drawn["prediction"])
    assert (cfg.logger.mode, cfg.logger.project) == ("online", SWEEP["project"])


def test_it_optimises_a_metric_in_its_direction():
    prefix, _, name = SWEEP["metric"]["name"].partition("/")
    assert prefix == "eval"
    assert (METRICS[name].best == LOWER) == (SWEEP["metric"]["goal"] == "minimize")


def test_a_run_has_the_id_that_an_agent_gives(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "abc12345")
    assert run_id(Path("/a/b_c/d")) == "b-c-d"
    monkeypatch.setenv("WANDB_SWEEP_ID", "xyz")
    assert run_id(Path("/a/b_c/d")) == "abc12345"


@pytest.mark.slow
def test_an_agent_starts_runs(environment, fast, tmp_path):
    from wandb.sdk.lib import config_util

    drawn = {"optimizer.lr": 0.00031, "schedule": "linear", "prediction": "v", "seed": 2}
    parameters = tmp_path / "config-abc12345.yaml"
    config_util.save_config_file_from_dict(str(parameters), {key: {"value": value} for key, value in drawn.items()})
    small = [word for word in fast if word != "logger=csv"]
    done = subprocess.run(
        [*command_of(drawn), *small, "logger.mode=offline"],  # of two values the last one counts
        cwd=tmp_path,
        env={
            **environment,
            "WANDB_SWEEP_ID": "xyz",
            "WANDB_RUN_ID": "abc12345",
            "WANDB_SWEEP_PARAM_PATH": str(parameters),
            "PATH": os.environ["PATH"],
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("outputs/train/*")
    assert list(run.glob("wandb/offline-run-*-abc12345"))
    saved = OmegaConf.load(run / "config.yaml")
    assert (saved.optimizer.lr, saved.choices.schedule, saved.seed) == (0.00031, "linear", 2)
