"""A workspace of W&B for a sweep, built and checked without a network."""

import importlib.util
import json

import pytest

from diffsweep.runs.claiming import claim
from diffsweep.runs.dashboard import PACKAGE, read_sweep, specification, workspace

requires_package = pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="not installed")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, configure):
    """The folder of a sweep over schedules, steps of the sampler and seeds, with numbers of half of its jobs."""
    folder = tmp_path_factory.mktemp("sweeps") / "train_0a1b"
    for number, (schedule, steps) in enumerate((s, n) for s in ("linear", "cosine") for n in (5, 10)):
        job = folder / f"{number}_schedule-{schedule}_sampler.steps-{steps}"
        words = (f"schedule={schedule}", f"sampler.steps={steps}", f"seed={number % 2}", "logger=wandb")
        claim(configure(job, *words, "logger.project=digits"))
        if number % 2 == 0:
            numbers = {"fid": 2.0, "is": 9.0, "network_evaluations": 5.0, "fid_real": 1.0}
            (job / "metrics.json").write_text(json.dumps({"metrics": numbers}))
    return folder


def test_a_sweep_is_read_from_its_jobs(sweep):
    """Keys that follow from a choice or from the seed are not what varies: a beta schedule has other keys."""
    found = read_sweep(sweep)
    assert (found.name, found.project, found.entity) == ("train_0a1b", "digits", "")
    assert sorted(found.varied) == ["sampler.steps", "schedule", "seed"]
    assert sorted(found.settings) == ["sampler.steps", "schedule"]
    assert found.measured == ["fid", "is", "network_evaluations"]


def panels_of(content):
    sections = content["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections}


@requires_package
def test_the_workspace_shows_curves_what_matters_samples_and_a_comparison(sweep, command, tmp_path):
    done = command("dashboard", f"sweep={sweep}", "entity=me", f"output={tmp_path / 'made.json'}")
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "made.json").read_text())
    assert (content["entity"], content["project"], content["name"]) == ("me", "digits", "train_0a1b")
    panels = panels_of(content)
    curves = [panel["config"]["metrics"] for panel in panels["Curves"]]
    assert curves[:4] == [["eval/fid"], ["eval/is"], ["val/loss"], ["train/loss"]]
    assert {panel["config"]["xAxis"] for panel in panels["Curves"]} == {"trainer/global_step"}
    parallel, importance = panels["What matters"]
    columns = {column["accessor"] for column in parallel["config"]["columns"]}
    settings = {f"config:{key}.value" for key in ("schedule", "sampler.steps", "seed")}
    assert columns == settings | {"summary:eval/fid", "summary:eval/is"}
    assert importance["config"]["targetKey"] == "eval/fid"
    kinds = [panel["viewType"] for panel in (*panels["Samples"], *panels["Runs"])]
    assert kinds == ["Media Browser", "Media Browser", "Weave", "Run Comparer"]
    assert panels["Samples"][0]["config"]["mediaKeys"] == ["samples"]
    runs = json.dumps(content["spec"]["section"]["runSets"])
    assert "train_0a1b" in runs
    assert '"name": "sampler.steps.value"' in runs


@requires_package
def test_the_workspace_is_what_the_library_reads_back(sweep):
    """Of keys without dots, since the library writes those with dots as keys in nested dicts."""
    from wandb_workspaces.workspaces import Workspace

    made = workspace(read_sweep(sweep)._replace(varied=["schedule", "seed"]), "eval/fid")
    again = Workspace._from_model(made._to_model())
    expected, found = panels_of(specification(made)), panels_of(specification(again))
    for panels in (expected, found):
        panels["Samples"].pop()  # a table, whose size the library does not read back
    assert found == expected


@requires_package
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["metric=kid"], ["metric=kid", "no job", "they have fid, is"]),
        (["metrik=fid"], ["metrik", "did you mean metric"]),
    ],
)
def test_a_mistake_is_one_line(sweep, command, words, parts):
    done = command("dashboard", f"sweep={sweep}", *words)
    assert done.code == 2
    (line,) = done.err.splitlines()
    for part in parts:
        assert part in line


@requires_package
def test_a_folder_without_jobs_is_no_sweep(command, tmp_path):
    done = command("dashboard", f"sweep={tmp_path}")
    assert done.code == 2
    assert "no folder of a sweep" in done.err
    done = command("dashboard")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "sweep=outputs/sweeps/NAME" in done.err


def test_without_the_package_one_line_names_it(command, sweep, monkeypatch):
    from diffsweep.runs import dashboard

    monkeypatch.setattr(dashboard.importlib.util, "find_spec", lambda name: None)
    done = command("dashboard", f"sweep={sweep}")
    assert done.code == 2
    assert "pip install 'diffsweep[dashboard]'" in done.err
