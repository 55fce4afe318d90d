"""Searches by Optuna: what is drawn, that an interrupted search is the uninterrupted one, and what is refused."""

import json
import math
from pathlib import Path

import pytest

from diffsweep.configuration.compose import compose
from diffsweep.configuration.jobs import parsed
from diffsweep.configuration.preflight import preflight
from diffsweep.errors import Stopped, UserError
from diffsweep.runs import training

optuna = pytest.importorskip("optuna")
FLOAT, INT, ONE_OF = (getattr(optuna.distributions, f"{name}Distribution") for name in ("Float", "Int", "Categorical"))
SEARCH = ("-m", "hydra/sweeper=optuna", "optimizer.lr=tag(log,interval(1e-5,1e-1))", "schedule=linear,cosine")


@pytest.mark.parametrize(
    ("typed", "drawn"),
    [
        ("optimizer.lr=interval(0.1,2)", FLOAT(0.1, 2.0)),
        ("optimizer.lr=tag(log,interval(1e-4,1e-2))", FLOAT(1e-4, 1e-2, log=True)),
        ("sampler.steps=int(interval(4,16))", INT(4, 16)),
        ("sampler.steps=range(10,40,10)", ONE_OF(["10", "20", "30"])),
        ("schedule=linear,cosine", ONE_OF(["linear", "cosine"])),
        ("trainer.gradient_clip_val=null,1.0", ONE_OF(["null", "1.0"])),
        ("schedule=glob(sigmoid*)", ONE_OF(["sigmoid", "sigmoid_alpha_bar"])),
    ],
)
def test_what_is_drawn_for_a_key(typed, drawn):
    from diffsweep.runs.search import distribution

    (override,) = parsed([typed])
    assert distribution(override) == drawn


def test_an_empty_interval_is_refused():
    from diffsweep.runs.search import distribution

    for typed in ("optimizer.lr=interval(2,1)", "optimizer.lr=tag(log,interval(0,1))"):
        with pytest.raises(UserError, match="must be below the second"):
            distribution(*parsed([typed]))


@pytest.fixture
def objective(monkeypatch):
    """A training whose result is known: lowest for lr = 1e-3 and schedule=cosine; ``seen`` has the values of each."""
    seen = []

    def train(cfg):
        seen.append((cfg.optimizer.lr, cfg.choices.schedule))
        (Path(cfg.paths.run_dir) / "config.yaml").unlink(missing_ok=True)  # of a job that was stopped
        training.claim(cfg)
        if stop_at and len(seen) == stop_at[0]:
            stop_at.clear()
            raise Stopped(130)
        if cfg.optimizer.lr > 0.05:
            raise FloatingPointError("it diverged")
        return (math.log10(cfg.optimizer.lr) + 3) ** 2 + (cfg.choices.schedule == "linear")

    stop_at = []
    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr("diffsweep.runs.search.preflight", lambda cfg: None)
    train.seen, train.stop_at = seen, stop_at
    return train


def manifest(folder="."):
    (path,) = Path(folder).glob("outputs/sweeps/*/sweep.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("trials", "stops"),
    [pytest.param(3, [2], marks=pytest.mark.slow), pytest.param(12, [7, 12], marks=pytest.mark.slow)],
)
def test_an_interrupted_search_goes_on_as_the_uninterrupted_one(
    trials, stops, command, fast, objective, monkeypatch, tmp_path
):
    """After ten random trials, each trial depends on all results before it. More trials go on with the search."""
    folders, search = [tmp_path / "whole", tmp_path / "stopped"], (*SEARCH, *fast)
    for folder, ends in zip(folders, ([], stops), strict=True):
        folder.mkdir()
        monkeypatch.chdir(folder)
        objective.seen.clear()
        for stop in ends:
            objective.stop_at[:] = [stop]
            done = command("train", *search, f"hydra.sweeper.n_trials={trials}")
            assert done.code == 130
            assert "hydra/sweeper=optuna" in done.out.splitlines()[-1]
            assert manifest()["jobs"][-1]["state"] == "interrupted"
        for n in (trials, trials + 1):
            done = command("train", *search, f"hydra.sweeper.n_trials={n}")
            assert done.code == 0, done.err
    assert len(objective.seen) == trials + 1 + len(stops)  # the interrupted trials alone have begun twice
    whole, stopped = (manifest(folder)["jobs"] for folder in folders)
    columns = ("name", "overrides", "state", "error", "result")
    assert [[job[key] for key in columns] for job in whole] == [[job[key] for key in columns] for job in stopped]
    assert len({job["name"] for job in whole}) == trials + 1
    finished = [job for job in whole if job["state"] == "finished"]
    best = min(finished, key=lambda job: job["result"])
    assert f"best of {trials + 1} trials: result {best['result']:.5g} by {' '.join(best['overrides'])}" in done.out
    assert all(job["error"] == "it diverged" for job in whole if job not in finished)


@pytest.mark.slow
def test_results_of_jobs_that_ended_while_the_search_was_killed_are_not_lost(command, fast, objective, monkeypatch):
    """The process was killed after a job had recorded its end, before the study had its result."""
    with monkeypatch.context() as patch:
        patch.setattr("diffsweep.runs.search.Search._report_results", lambda self: None)
        patch.setattr("diffsweep.runs.search.Search.best_job", lambda self: None)
        assert command("train", *SEARCH, "hydra.sweeper.n_trials=2", *fast).code == 1
    done = command("train", *SEARCH, "hydra.sweeper.n_trials=2", *fast)
    assert done.code == 0, done.err
    assert "best of 2 trials" in done.out
    assert len(objective.seen) == 2


@pytest.mark.parametrize(
    ("metric", "shortfall"),
    [
        ("is", lambda value: -value),
        pytest.param("fid", lambda value: value, marks=pytest.mark.slow),
        pytest.param("copy_ratio", lambda value: abs(value - 1), marks=pytest.mark.slow),
    ],
)
def test_a_metric_is_compared_by_its_best_value(metric, shortfall, command, fast, objective, monkeypatch):
    monkeypatch.setattr(training, "train", lambda cfg: (training.claim(cfg), 100 * cfg.optimizer.lr)[1])
    search = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "optimizer.lr=interval(0.001,0.03)")
    done = command("train", *search, *fast, "metrics=digits", f"optimized_metric={metric}")
    assert done.code == 0, done.err
    results = [job["result"] for job in manifest()["jobs"]]
    (line,) = [line for line in done.out.splitlines() if line.startswith("best of 4 trials")]
    assert f"trials: {metric} {min(results, key=shortfall):.5g} by " in line
    assert len(set(results)) == 4


def test_a_search_trains_and_ends_with_a_model(command, fast):
    done = command("train", *SEARCH[:-1], "hydra.sweeper.n_trials=2", *fast, "trainer.max_steps=1")
    assert done.code == 0, done.err
    (*_, last) = done.out.splitlines()
    assert (Path(last.strip()) / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["seed=0"], "a search varies keys with several values"),
        (["seed=0,1", "hydra/launcher=joblib"], "start the same line in several terminals"),
        (["optimizer.lrr=interval(0,1)"], "optimizer.lrr: no such key, did you mean optimizer.lr?"),
        (["schedule=linear,cosne,cosine"], "schedule=cosne: no such option, did you mean cosine"),
        (["seed=0,1", "hydra.sweeper.n_trials=many"], "hydra.sweeper.n_trials=many: not of type int"),
        (["schedule=linear,cosine", "optimizer.lr=-1"], "optimizer: Invalid learning rate"),
    ],
)
def test_a_wrong_search_is_one_line_and_nothing_is_made(words, answer, command, fast):
    done = command("train", "-m", "hydra/sweeper=optuna", *fast, *words)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert answer in line
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["optimized_metric=recal"], "optimized_metric=recal: no such metric, did you mean recall? it is one of fid,"),
        (["optimized_metric=kl"], "no such metric"),  # of which no value is better
        (["optimized_metric=is", "metrics=none"], "such as metrics=digits"),
        (["optimized_metric=bits_per_dim"], "such as likelihood=bound"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused(words, answer):
    with pytest.raises(UserError, match="optimized_metric_is_measured") as refused:
        preflight(compose("train", words))
    assert answer in str(refused.value)


def test_the_named_metric_is_returned():
    from diffsweep.runs.evaluation import headline

    numbers = {"val/loss": 0.1, "fid": 3.0, "is": 9.0}
    assert (headline(numbers), headline(numbers, "is"), headline(numbers, "val/loss")) == (3.0, 9.0, 0.1)
    with pytest.raises(UserError, match="optimized_metric=kid was not measured; this run has val/loss, fid, is"):
        headline(numbers, "kid")
