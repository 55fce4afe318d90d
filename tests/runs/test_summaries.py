"""A sweep of evaluations ends with a table and figures of its metrics.json files."""

import json

import pytest

from diffsweep.comparison.endings import endings
from diffsweep.configuration.resolvers import slug
from diffsweep.runs import evaluation_figures
from diffsweep.runs.evaluation import headline
from diffsweep.runs.evaluation_figures import curves_over, summarise


@pytest.fixture
def sweep(tmp_path):
    """``folder = sweep({name: (guidance, metrics)})``: a sweep's folder of jobs."""

    def sweep(jobs):
        for number, (name, (guidance, metrics)) in enumerate(jobs.items()):
            folder = tmp_path / f"{number}_{name}"
            folder.mkdir()
            content = {"metrics": metrics, "protocol": {"sampler": "DDIM", "guidance": guidance}}
            (folder / "metrics.json").write_text(json.dumps(content))
        return tmp_path

    return sweep


@pytest.fixture
def drawn(monkeypatch):
    """The curves of the figures, by the name of the function that draws them."""
    drawn = {}
    for name in ("plot_tradeoff", "plot_by_evaluations"):
        plot = getattr(evaluation_figures, name)

        def keep(curves, label, name=name, plot=plot):
            drawn[name] = curves, label
            return plot(curves, label)

        monkeypatch.setattr(evaluation_figures, name, keep)
    return drawn


def guided(scale, shift=0.0, **more):
    """Return metrics as guidance changes them: FID has a minimum, IS and precision rise, recall falls."""
    metrics = {
        "fid": 4 + (scale - 1.5) ** 2 + shift,
        "is": 9.5 - 1 / scale,
        "precision": 1 - 0.3 / scale,
        "recall": 0.9 / scale + shift / 10,
        "class_accuracy": 1 - 0.1 / scale**2,
        "network_evaluations": 100.0 if scale != 1 else 50.0,
        **more,
    }
    return {"_target_": "a.b", "scale": scale, "rescale": 0.0, "interval": [0, 1], "on": True}, metrics


def test_a_sweep_over_scales_ends_with_the_tradeoff(sweep, drawn, capsys):
    folder = sweep({f"guidance.scale-{scale}": guided(scale) for scale in (3, 1, 5, 1.5, 2)})
    summarise(folder)
    curves, key = drawn.pop("plot_tradeoff")
    assert not drawn  # the number of steps is not varied
    assert key == "guidance.scale"
    assert {name: [(at, m["fid"]) for at, m in curve] for name, curve in curves.items()} == {
        "DDIM": [(1, 4.25), (1.5, 4), (2, 4.25), (3, 6.25), (5, 16.25)]
    }
    assert (folder / "tradeoff.png").stat().st_size > 20_000
    assert not (folder / "fid.png").exists()
    output = capsys.readouterr().out
    assert str(folder / "tradeoff.png") in output
    assert "class_accuracy" in output
    header, first, *_ = (line.split(",") for line in (folder / "results.csv").read_text().splitlines())
    assert header == ["job", "fid", "is", "precision", "recall", "class_accuracy", "network_evaluations"]
    assert first == ["guidance.scale-3", "6.25", "9.167", "0.9", "0.3", "0.9889", "100"]


def test_other_settings_make_another_curve(sweep, drawn):
    jobs = {}
    for scale in (1, 2, 4):
        for number, sampler in enumerate(("ddim", "dpm_solver_pp")):
            jobs[f"sampler-{sampler}_guidance.scale-{scale}_seed-0"] = guided(scale, number)
    summarise(sweep(jobs))
    curves, _ = drawn["plot_tradeoff"]
    assert {name: [at for at, _ in curve] for name, curve in curves.items()} == {
        "sampler-ddim": [1, 2, 4],
        "sampler-dpm_solver_pp": [1, 2, 4],
    }
    assert [curve[0][1]["fid"] for curve in curves.values()] == [4.25, 5.25]


def test_any_number_of_the_guidance_may_vary(sweep, drawn):
    jobs = {}
    for rescale in (0, 0.5):
        guidance, metrics = guided(2, rescale)
        jobs[f"guidance.rescale-{rescale}"] = {**guidance, "rescale": rescale}, metrics
    summarise(sweep(jobs))
    curves, key = drawn["plot_tradeoff"]
    assert key == "guidance.rescale"
    assert [at for at, _ in curves["DDIM"]] == [0, 0.5]


def test_clips_are_compared_by_their_own_distance(sweep, drawn):
    """It has its own name in the table, in the figures and in the number that a sweep minimises."""
    jobs = {}
    for steps in (10, 20):
        for scale in (1, 2):
            guidance, of_images = guided(scale, network_evaluations=float(steps))
            renamed = {"fid": "clip_fd", "is": "clip_is"}
            metrics = {renamed.get(name, name): value for name, value in of_images.items()}
            jobs[f"sampler.steps-{steps}_guidance.scale-{scale}"] = guidance, metrics
    folder = sweep(jobs)
    summarise(folder)
    points, label = drawn["plot_by_evaluations"]
    assert label == "clip FD"
    assert points == {f"guidance.scale-{s}": [(n, guided(s)[1]["fid"]) for n in (10, 20)] for s in (1, 2)}
    assert {path.name for path in folder.glob("*.png")} == {"clip_fd.png", "tradeoff.png", "summary.png"}
    assert (folder / "results.csv").read_text().startswith("job,clip_fd,clip_is,precision")
    assert headline({"val/loss": 0.1, "bits_per_dim": 2.0, **jobs["sampler.steps-10_guidance.scale-1"][1]}) == 4.25
    assert headline({"val/loss": 0.1, "clip_fd": 3.0, "fvd": 200.0}) == 200


def test_steps_and_scales_have_a_figure_each(sweep, drawn):
    """Each figure has a curve for every value of the other key."""
    jobs = {
        f"sampler.steps-{steps}_guidance.scale-{scale}": guided(scale, network_evaluations=float(steps))
        for steps in (10, 20)
        for scale in (1, 2, 3)
    }
    folder = sweep(jobs)
    summarise(folder)
    by_steps, _ = drawn["plot_by_evaluations"]
    assert by_steps == {f"guidance.scale-{s}": [(n, guided(s)[1]["fid"]) for n in (10, 20)] for s in (1, 2, 3)}
    assert drawn["plot_tradeoff"][0].keys() == {"sampler.steps-10", "sampler.steps-20"}
    assert (folder / "fid.png").exists()


@pytest.mark.parametrize("guidance", [{}, {"scale": 2.0}, {"scale": [1, 2]}])
def test_jobs_of_the_same_guidance_make_no_tradeoff(sweep, drawn, guidance):
    summarise(sweep({f"seed-{seed}": (guidance, guided(2, seed)[1]) for seed in (0, 1)}))
    assert not drawn


def test_jobs_without_samples_are_in_the_table_alone(tmp_path, drawn):
    for number in (0, 1):
        (tmp_path / f"{number}_seed-{number}").mkdir()
        content = {"metrics": {"bits_per_dim": 2.5}, "likelihood_protocol": {}}
        (tmp_path / f"{number}_seed-{number}" / "metrics.json").write_text(json.dumps(content))
    summarise(tmp_path)
    assert not drawn
    assert (tmp_path / "results.csv").read_text() == "job,bits_per_dim\nseed-0,2.5\nseed-1,2.5\n"


def test_metrics_without_precision_make_no_tradeoff(sweep, drawn):
    summarise(sweep({f"guidance.scale-{s}": ({"scale": s}, {"fid": 3.0 + s, "is": 2.0 + s}) for s in (1, 2)}))
    assert not drawn


def test_a_key_is_not_taken_for_the_end_of_another():
    found = {
        f"my.guidance.scale-{a}_guidance.scale-{b}": {"metrics": {"fid": 1.0}, "protocol": {"sampler": "DDIM"}, "x": b}
        for a in (1, 2)
        for b in (3, 4)
    }
    curves = curves_over("guidance.scale", found, lambda content: content["x"])
    assert curves.keys() == {"my.guidance.scale-1", "my.guidance.scale-2"}


def test_a_curve_is_the_mean_over_seeds():
    found = {
        f"sampler-{name}_sampler.steps-{x}_seed-{seed}": {"metrics": {"fid": x + 10.0 * seed}, "x": x}
        for name in ("ddim", "heun")
        for x in (5, 2)
        for seed in (0, 1)
    }
    curves = curves_over("sampler.steps", found, lambda content: content["x"])
    mean = [(2, {"fid": 7.0}), (5, {"fid": 10.0})]
    assert curves == {"sampler-ddim": mean, "sampler-heun": mean}


def test_curves_of_runs_are_named_by_models_and_the_ends_of_paths(sweep, drawn):
    """A directory's characters that a folder's name cannot have do not matter, nor do equal last parts."""
    jobs, records = {}, []
    models = {"/a/b_c/last": "ddpm", "/a/d/last": "edm", "outputs/train/e": "edm"}
    for run in models:
        for steps in (1, 4):
            name = f"{slug(f'run={run}')}_sampler.steps-{steps}"
            records.append({"name": f"{len(records)}_{name}", "overrides": [f"run={run}", f"sampler.steps={steps}"]})
            jobs[name] = {}, {"fid": 8.0 / steps, "network_evaluations": float(steps)}
    folder = sweep(jobs)
    for record in records:
        model = models[record["overrides"][0].partition("=")[2]]
        (folder / record["name"] / "evaluation.yaml").write_text(f"choices: {{model: {model}}}\n")
    (folder / "sweep.json").write_text(json.dumps({"command": "evaluate", "words": [], "jobs": records}))
    summarise(folder)
    points, _ = drawn["plot_by_evaluations"]
    assert list(points) == ["ddpm b_c/last", "edm d/last", "edm train/e"]
    assert all(curve == [(1, 8.0), (4, 2.0)] for curve in points.values())


def test_paths_end_where_they_differ():
    assert endings(["/a/x", "/b/y", "/a/x"]) == {"/a/x": "x", "/b/y": "y"}
    assert endings(["/a/x/1", "/a/y/1", "/b/y/1"]) == {"/a/x/1": "a/x/1", "/a/y/1": "a/y/1", "/b/y/1": "b/y/1"}
    assert endings(["r", "/q/r"]) == {"r": "r", "/q/r": "q/r"}
    assert endings([]) == {}
