"""The commands compare.py and runs.py, and the end of sweeps, on real small runs."""

import json
from pathlib import Path

import pytest

MEASURED = ("metrics=digits", "metrics.num_samples=8", "metrics.kid_subset_size=8", "metrics.reference=train")


@pytest.fixture
def sweep(command, fast):
    """The folder of a sweep over schedules and seeds, and what it printed, in an empty current folder."""
    done = command("train", "-m", "schedule=linear,cosine", "seed=0,1", *fast, *MEASURED, "trainer.max_steps=2")
    assert done.code == 0, done.err
    (folder,) = Path("outputs/sweeps").iterdir()
    return folder, done.out


def test_a_sweep_ends_with_a_summary_and_compare_makes_the_same(sweep, command):
    folder, printed = sweep
    made = {kind: (folder / f"summary.{kind}").read_bytes() for kind in ("md", "csv", "html", "png")}
    assert f"{folder}/summary.md" in printed
    assert "FID by schedule; 4 runs, 4 finished" in printed
    assert "2 seeds would show one of" in printed or "over 2 seeds" in printed
    cost = json.loads(next(folder.glob("0_*/metrics.json")).read_text())["cost"]
    assert cost["seconds"] > 0
    assert cost["parameters"] > 1000
    for path in folder.glob("summary.*"):
        path.unlink()
    done = command("compare", f"runs={folder}")
    assert done.code == 0, done.err
    assert {kind: (folder / f"summary.{kind}").read_bytes() for kind in made} == made
    other = command("compare", f"runs={folder}", "baseline=schedule=cosine", "metric=kid", "output=elsewhere")
    assert other.code == 0, other.err
    assert "between linear and cosine" in other.out or "than cosine" in other.out
    assert Path("elsewhere/summary.md").exists()
    page = Path("elsewhere/summary.html").read_text()
    assert f"python src/compare.py runs={folder} metric=kid baseline=schedule=cosine" in page

    runs = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0].isdigit())
    difference = command("compare", f"diff=[{runs[0]},{runs[3]}]")
    assert difference.code == 0, difference.err
    lines = [line.split() for line in difference.out.splitlines()]
    assert ["schedule", "linear", "cosine"] in lines
    assert ["seed", "0", "1"] in lines

    for words, message in (
        ([], "runs is empty"),
        ([f"runs={folder}", "metric=fvd"], "metric=fvd: no run has it; the runs have fid"),
        ([f"runs={folder},missing"], "missing: no such directory"),
        ([f"runs={folder}", "metric=val/loss"], "it depends on schedule"),
        ([f"diff={runs[0]}"], "diff has 1 directories"),
        ([f"runs={folder}", "-m"], "compare.py runs once"),
    ):
        refused = command("compare", *words)
        assert refused.code == 2, words
        assert message in refused.err
        assert refused.err.count("\n") == 1

    listed = command("runs")
    assert listed.code == 0, listed.err
    assert str(folder) in listed.out
    assert "4 finished" in listed.out
    dry = command("runs", f"prune={runs[0]},{runs[1]}")
    assert "2 would be deleted" in dry.out
    assert runs[0].exists()
    assert command("runs", f"prune={runs[0]}", "confirm=true").code == 0
    assert not runs[0].exists()
    assert runs[1].exists()
    assert "no such directory" in command("runs", "prune=/nonexistent").err
    assert "sort=size: runs are sorted by age" in command("runs", "sort=size").err


@pytest.mark.slow
def test_a_sweep_of_evaluations_ends_with_its_table_and_the_summary(finished, command, fast):
    few = ("metrics=digits", "metrics.reference=train", "metrics.kid_subset_size=8", "num_samples=8", "trainer=cpu")
    words = (f"run={finished}", "sampler=ddim", "sampler.steps=2,3", "seed=0,1", "output=out", *few)
    done = command("evaluate", "-m", *words)
    assert done.code == 0, done.err
    assert "out/results.csv" in done.out
    assert "out/fid.png" in done.out
    assert "FID by sampler.steps; 4 runs, 4 finished" in done.out
    names = {path.name for path in Path("out").iterdir()}
    assert {"summary.md", "summary.csv", "summary.html", "summary.png", "results.csv"} <= names
    assert "run_dir" in next(Path("out").glob("0_*/evaluation.yaml")).read_text()


def test_a_run_in_progress_is_refused_a_second_owner(configure, resume, tmp_path):
    from diffsweep.comparison.records import LOCK
    from diffsweep.errors import UserError
    from diffsweep.files import owned
    from diffsweep.runs.training import train

    with owned(tmp_path / "run" / LOCK), pytest.raises(UserError, match="by another process now"):
        train(configure(tmp_path / "run", "trainer.max_steps=1"))
