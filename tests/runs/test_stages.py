"""A model that another run needs is given, found or trained once, and runs no code that is not trusted."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from parts import parts_of

from diffsweep import files
from diffsweep.configuration import rules
from diffsweep.configuration.build import build
from diffsweep.configuration.check import locate
from diffsweep.configuration.compose import compose as fresh_compose
from diffsweep.configuration.loading import load_model, trained
from diffsweep.configuration.preflight import preflight, stages_of
from diffsweep.configuration.rules.stages import stages_match_the_noise
from diffsweep.configuration.stage_nodes import Stage, stage_nodes, trainable_config
from diffsweep.diffusion import INDEPENDENT, Condition, ProgressiveNoise, SharedNoise
from diffsweep.discovery import import_all
from diffsweep.errors import Stopped, UserError
from diffsweep.metrics import identify
from diffsweep.models import DiffusionModel
from diffsweep.runs import stages
from diffsweep.runs.commands import evaluate
from diffsweep.runs.stages import identity, resolve_stages
from diffsweep.runs.training import train

TRAIN = 'guidance.weak.train=["trainer.max_steps=3","metrics=none","callbacks=minimal"]'
GUIDED = ("guidance=autoguidance", TRAIN)


def never(cfg):
    raise AssertionError("trained again")


@pytest.fixture(scope="module")
def guided(tmp_path_factory, configure):
    """A finished run that trained its weaker model first; not to be changed."""
    directory = tmp_path_factory.mktemp("outputs") / "run"
    train(configure(directory, *GUIDED, "schedule=linear", "seed=5"))
    return directory


@pytest.fixture(scope="module")
def stage(guided):
    """The directory of the stage of ``guided``."""
    (path,) = (guided.parent / "stages").glob("ddpm_*")
    return path


@pytest.fixture
def needing(compose, tmp_path):
    """The configuration of a run that needs a stage, and the directory of the stage."""
    cfg = compose(*GUIDED).copy()
    cfg.paths.output_dir, cfg.paths.run_dir = str(tmp_path), str(tmp_path / "run")
    return cfg, tmp_path / "stages" / f"ddpm_{name_of(cfg)}"


def name_of(cfg):
    ((path, node),) = stage_nodes(cfg)
    return identify(identity(trainable_config(cfg, path, node)))


def test_the_run_keeps_the_path_of_its_stage(guided, stage):
    assert OmegaConf.load(guided / "config.yaml").guidance.weak.run == str(stage)
    assert json.loads((stage / "stage.json").read_text()).keys() == {"val/loss"}


def test_a_stage_is_the_run_that_its_configuration_describes(guided, stage, configure, tmp_path, checkpoint):
    """It has the weights, bit by bit, of a run with its own seed and the groups that it inherits."""
    train(configure(tmp_path / "alone", "trainer.max_steps=3", "schedule=linear", "seed=0"))
    alone, found = checkpoint(tmp_path / "alone"), checkpoint(stage)
    assert found["global_step"] == 3
    for name, weight in alone["ema"]["weights"].items():
        assert torch.equal(weight, found["ema"]["weights"][name]), name


@pytest.mark.parametrize(
    "others",
    [
        ("seed=6", "trainer.precision=bf16-mixed", "sampler=ddim", "guidance.scale=3", "trainer.max_steps=9"),
        (
            "dataset.num_workers=2",
            "optimizer.lr=0.001",
            "guidance.weak.inherit=[model,schedule,dataset]",
            "callbacks=default",
        ),
        ('guidance.weak.train=["metrics=digits","callbacks.progress.refresh_every=7","trainer.max_steps=3"]',),
    ],
)
def test_a_stage_is_found_by_runs_that_need_the_same(guided, stage, configure, capsys, others):
    cfg = configure(guided.parent / "other", *GUIDED, "schedule=linear", *others)
    resolve_stages(cfg, never)
    assert cfg.guidance.weak.run == str(stage)
    (line,) = capsys.readouterr().out.splitlines()
    for part in (str(stage), "trained before", "val/loss"):
        assert part in line
    assert not (guided.parent / "other").exists()


@pytest.mark.slow  # many configurations
def test_settings_that_change_a_stages_weights_change_its_name(compose):
    base = compose("guidance=autoguidance", "schedule=linear")

    def name(own, key="guidance.weak.scale", value=None):
        cfg = base.copy()
        cfg.guidance.weak.train = own
        if value is not None:
            OmegaConf.update(cfg, key, value)
        return name_of(cfg)

    own = (
        "trainer.max_steps=5",
        "seed=1",
        "trainer.precision=bf16-mixed",
        "callbacks.ema.decay=0.9",
        "backbone.channels=16",
    )
    inherited = {"schedule.num_steps": 500, "dataset.batch_size": 64, "prediction.variance": "fixed_large"}
    names = [name([]), *(name([override]) for override in own), *(name([], *item) for item in inherited.items())]
    assert len(set(names)) == len(names) == 9
    assert name(["trainer.log_every_n_steps=3", "sampler.steps=3", "logger.mode=disabled"]) == names[0]


def test_the_place_where_a_stage_runs_does_not_change_its_name(configure, tmp_path):
    first = name_of(configure(tmp_path / "a" / "run", *GUIDED))
    cfg = configure(tmp_path / "b" / "run", *GUIDED, "trainer=ddp", "trainer.devices=[3,4]", "logger=wandb")
    assert name_of(cfg) == first
    settings = trainable_config(cfg, *stage_nodes(cfg)[0])
    assert settings.trainer.devices == [3]
    assert "strategy" not in settings.trainer
    assert settings.logger.mode == "disabled"


def test_a_stages_own_overrides_replace_what_it_inherits(configure, tmp_path):
    own = 'guidance.weak.train=["dataset.batch_size=16","schedule=cosine","trainer.max_steps=7"]'
    cfg = configure(
        tmp_path / "run", "guidance=autoguidance", own, "schedule=linear", "dataset.num_workers=1", "seed=4"
    )
    settings = trainable_config(cfg, *stage_nodes(cfg)[0])
    assert (settings.dataset.batch_size, settings.dataset.num_workers, settings.dataset.seed) == (16, 1, 0)
    assert settings.schedule._target_.endswith("Cosine")
    assert settings.backbone.channels == 8, "debug=fast is inherited"
    assert settings.trainer.max_steps == 7


def test_a_run_is_the_same_whether_its_stage_was_found_or_trained(guided, stage, configure, checkpoint):
    train(configure(guided.parent / "again", *GUIDED, "schedule=linear", "seed=5"))
    first, again = checkpoint(guided), checkpoint(guided.parent / "again")
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(first[part], again[part], rtol=0, atol=0)
    assert len(list((guided.parent / "stages").glob("ddpm_*"))) == 1


def test_the_model_of_a_stage_has_averaged_weights_and_is_loaded_once(stage, checkpoint):
    state = torch.get_rng_state()
    model = trained(str(stage))
    assert torch.equal(torch.get_rng_state(), state)
    assert trained(str(stage), kind="diffsweep.models.DiffusionModel") is model
    assert trained(os.path.relpath(stage)) is model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for name, weight in checkpoint(stage)["ema"]["weights"].items():
        assert torch.equal(model.state_dict()[name], weight)
    os.utime(stage / "checkpoints" / "last.ckpt")
    assert trained(str(stage)) is not model, "its weights were written anew"


def test_samples_are_guided_by_the_stage(guided, stage):
    cfg = fresh_compose("sample", [f"run={guided}"])
    assert cfg.guidance.weak.run == str(stage)
    main, weak = load_model(cfg), load_model(fresh_compose("sample", [f"run={stage}"]))
    x, t, cond = torch.randn(4, 1, 8, 8), torch.tensor(0.6), Condition()
    found = main.guidance(main.denoiser)(x, t, cond)
    strong, other = main.denoiser(x, t, cond), weak.denoiser(x, t, cond)
    torch.testing.assert_close(found.x0, 2 * strong.x0 - other.x0)
    assert not torch.allclose(found.x0, strong.x0)


def test_an_evaluation_uses_the_stage_of_the_run_even_if_its_overrides_changed(guided, stage, tmp_path, monkeypatch):
    """Its protocol has the hash of the stage's weights, not their path."""
    ids = []
    for outputs in (guided.parent, shutil.copytree(guided.parent, tmp_path / "moved")):
        run, out = outputs / guided.name, tmp_path / f"out{len(ids)}"
        config = OmegaConf.load(run / "config.yaml")
        config.guidance.weak.run = str(outputs / "stages" / stage.name)
        if ids:
            config.guidance.weak.train = ["trainer.max_steps=77"]
            (run / "config.yaml").write_text(OmegaConf.to_yaml(config))
        monkeypatch.setattr("diffsweep.runs.commands.train", never)
        few = ("metrics=digits", "metrics.num_samples=8", "metrics.kid_subset_size=8", "metrics.reference=train")
        evaluate(fresh_compose("evaluate", [f"run={run}", f"output={out}", *few]))
        ids.append(json.loads((out / "metrics.json").read_text())["protocol"]["guidance"])
    assert ids[0]["weak"] == ids[1]["weak"]
    assert set(ids[0]["weak"]) == {"_target_", "weights"}


@pytest.mark.slow
def test_a_stopped_stage_is_resumed(configure, tmp_path, monkeypatch, capsys, stage, checkpoint):
    """Stopped in the second step of its stage, a run leaves no directory, and the next run takes the third step."""
    original, steps = DiffusionModel.training_step, []

    def training_step(self, *rest):
        steps.append(self.global_step)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *rest)

    monkeypatch.setattr(DiffusionModel, "training_step", training_step)
    typed = (*GUIDED, "schedule=linear", "trainer.max_steps=1")
    with pytest.raises(Stopped):
        train(configure(tmp_path / "run", *typed))
    assert "the same command resumes it" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    train(configure(tmp_path / "run", *typed))
    assert "resumes the training of ddpm" in capsys.readouterr().out
    assert steps == [0, 1, 2, 0]
    never_stopped, went_on = checkpoint(stage)["ema"], checkpoint(tmp_path / "stages" / stage.name)["ema"]
    torch.testing.assert_close(went_on, never_stopped, rtol=0, atol=0)


@pytest.mark.slow
def test_a_stage_without_a_checkpoint_starts_again(configure, tmp_path):
    """A kill may leave a folder with a configuration alone, which the next run claims."""
    cfg, called = configure(tmp_path / "run", *GUIDED), []
    folder = tmp_path / "stages" / f"ddpm_{name_of(cfg)}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{}")
    resolve_stages(cfg, lambda stage: called.append(train(stage)) or called[0])
    assert (folder / "stage.json").exists()
    assert len(called) == 1


HOLD = """
import sys
from pathlib import Path
from filelock import FileLock
lock, mark = sys.argv[1:]
with FileLock(lock):
    print("held", flush=True)
    sys.stdin.readline()
    Path(mark).write_text('{"accuracy": 0.5}')
"""


@pytest.fixture
def holder(needing):
    """``cfg, folder, process``: a process that trains the stage of a configuration until it reads a line."""
    cfg, folder = needing
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", HOLD, str(folder.parent / f".{folder.name}.lock"), str(folder / "stage.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield cfg, folder, process
        process.kill()


def test_a_run_waits_for_another_that_trains_its_stage(holder, monkeypatch):
    cfg, folder, process = holder
    lines = []

    def record(line, **_):
        lines.append(line)
        if " waits for " in line:  # let the other process finish
            process.stdin.write("\n")
            process.stdin.flush()

    for module in (files, stages):
        monkeypatch.setattr(module, "print", record, raising=False)
    resolve_stages(cfg, never)
    assert cfg.guidance.weak.run == str(folder)
    waits, found = lines
    assert waits == f"guidance.weak waits for {folder}, which another run is training"
    assert "accuracy 0.5" in found


def test_a_killed_run_leaves_no_lock(holder):
    cfg, folder, process = holder
    process.kill()
    process.wait()
    called = []
    resolve_stages(cfg, lambda stage: called.append(stage.paths.run_dir) or 0.25)
    assert called == [str(folder)]
    assert json.loads((folder / "stage.json").read_text()) == {"val/loss": 0.25}


def test_only_the_first_rank_trains(needing, monkeypatch):
    cfg, folder = needing
    monkeypatch.setenv("LOCAL_RANK", "1")
    waiting = threading.Thread(target=resolve_stages, args=(cfg, never))
    waiting.start()
    time.sleep(0.2)
    assert waiting.is_alive()
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text("{}")
    waiting.join(timeout=30)
    assert cfg.guidance.weak.run == str(folder)


def test_checking_and_showing_a_configuration_train_nothing(command, needing, tmp_path, fast):
    preflight(needing[0])
    done = command("train", *fast, *GUIDED, "--cfg", "job")
    assert "run: null" in done.out
    assert not list(tmp_path.rglob("stages"))
    assert not list(Path.cwd().iterdir())


# Settings of the node and of the run, and parts of the message.
WRONG = [
    ({}, {}, ["guidance.weak.run is missing", "trainer.max_steps=200", "[rule stages_are_given_or_trainable]"]),
    ({"run": "nowhere"}, {}, ["guidance.weak.run=nowhere", "no such folder", "Give the directory"]),
    ({"run": "nowhere", "train": []}, {}, ["guidance.weak.run=null finds or trains one"]),
    ({"run": "{bare}"}, {}, ["is unfinished", "last.ckpt"]),
    (
        {"run": "{stage}"},
        {"schedule.num_steps": 500},
        ["of 1000 steps", "of 500 steps", "another run", "[rule stages_match_the_schedule]"],
    ),
    (
        {"run": "{stage}", "train": []},
        {"schedule.beta_end": 0.03},
        ["schedule=linear", "guidance.weak.run=null, which finds or trains", "[rule stages_match_the_schedule]"],
    ),
    (
        {"run": "{stage}", "kind": "diffsweep.models.VDM"},
        {},
        ["is of class DiffusionModel", "class VDM is required", "[rule stages_are_of_the_required_class]"],
    ),
    (
        {"run": "{stage}"},
        {"trust": ["our_digits"], "dataset._target_": "our_digits.Ours"},
        ["was trained on dataset=digits (digits-sklearn-1797)", "(ours)", "[rule stages_match_the_data]"],
    ),
    ({"train": ["schedule=cosine"]}, {}, ["guidance.weak.train", "leave it out", "[rule stages_match_the_schedule]"]),
    ({"train": ["backbone.chanels=8"]}, {}, ["guidance.weak.train: backbone.chanels", "mean backbone.channels?"]),
    ({"train": ["optimizer.lr=-1"]}, {}, ["guidance.weak.train: optimizer: Invalid learning rate: -1"]),
    ({"train": ["trust=[os]"]}, {}, ["a stage may not set trust"]),
    ({"train": ["paths.output_dir=/"]}, {}, ["a stage may not set paths.output_dir"]),
    ({"train": ["hydra/launcher=joblib"]}, {}, ["a stage may not set hydra/launcher"]),
    ({"train": ["seed=1,2"]}, {}, ["guidance.weak.train", "seed"]),
    ({"train": ["seed=[1"]}, {}, ["guidance.weak.train", "cannot read 'seed=[1'"]),
    ({"train": [], "inherit": ["paths"]}, {}, ["no group named paths"]),
    ({"train": [], "inherit": ["shedule"]}, {}, ["no group named shedule"]),
]


@pytest.fixture
def our_digits(tmp_path, monkeypatch):
    """Digits of another kind in a package of the user."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "our_digits.py").write_text(
        "from diffsweep.datasets import Digits\n\n\nclass Ours(Digits):\n    fingerprint = 'ours'\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield
    sys.modules.pop("our_digits", None)


@pytest.mark.parametrize(("node", "more", "message"), WRONG, ids=[f"{node} {more}" for node, more, _ in WRONG])
def test_a_mistake_is_reported_before_anything_starts(
    node, more, message, compose, stage, tmp_path, our_digits, monkeypatch
):
    bare = shutil.copytree(stage, tmp_path / "bare", ignore=shutil.ignore_patterns("*.ckpt"))
    cfg = compose("guidance=autoguidance", "schedule=linear").copy()
    for key, value in {**{f"guidance.weak.{key}": value for key, value in node.items()}, **more}.items():
        known = value.format(stage=stage, bare=bare) if key.endswith(".run") else value
        OmegaConf.update(cfg, key, known)
    import_all(rules)  # those of files that are imported later would be registered among the ones of this test
    of_stages = {name: rule for name, rule in rules.RULES.items() if name.startswith("stages_")}
    monkeypatch.setattr(rules.base, "RULES", of_stages)
    monkeypatch.setattr(rules.base, "NOTES", {})
    built = {group: build(cfg, group) for group in ("dataset", "schedule", "autoencoder")}
    with pytest.raises(UserError) as refused:
        rules.apply(cfg, parts_of(**built, stages=stages_of(cfg)))
    for part in message:
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("typed", ["guidance.weak.run=nowhere", 'guidance.weak.train=["trainer.max_steps=0"]'])
def test_the_command_reports_a_mistake_in_one_line(typed, command, fast):
    done = command("train", *fast, "guidance=autoguidance", typed)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert typed.partition("=")[0] in line
    assert not list(Path.cwd().iterdir())


def test_a_missing_run_is_reported_from_python_too(guided, configure):
    missing = configure(guided.parent / "x", "guidance=autoguidance")
    with pytest.raises(UserError, match=r"guidance\.weak\.run is missing"):
        resolve_stages(missing, never)
    with pytest.raises(UserError, match="no such folder"):
        trained("nowhere")
    with pytest.raises(UserError, match="class VDM is required"):
        trained(str(guided), kind="diffsweep.models.VDM")


@pytest.fixture
def changed(stage, tmp_path):
    """``directory = changed(key, value)``: a copy of the stage with a changed configuration."""

    def changed(key, value):
        directory = shutil.copytree(stage, tmp_path / "changed")
        config = OmegaConf.load(directory / "config.yaml")
        OmegaConf.update(config, key, value, force_add=True)
        (directory / "config.yaml").write_text(OmegaConf.to_yaml(config))
        return directory

    return changed


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A target that writes a file when it is called or imported."""
    (tmp_path / "site").mkdir()
    text = f"open({str(tmp_path / 'pwned')!r}, 'w').close()\n\n\ndef touch():\n    pass\n"
    (tmp_path / "site" / "evil_stage.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield tmp_path / "pwned"
    sys.modules.pop("evil_stage", None)


@pytest.mark.parametrize("key", ["callbacks.evil", "model.schedule"])
def test_the_configuration_of_a_stage_runs_no_code(changed, payload, configure, tmp_path, key):
    """Trust that the configuration of the stage, or the node that names it, claims has no effect."""
    directory = changed(key, {"_target_": "evil_stage.touch"})
    saved = OmegaConf.load(directory / "config.yaml")
    (directory / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.merge(saved, {"trust": ["evil_stage"]})))
    typed = ("guidance=autoguidance", "schedule=linear", f"guidance.weak.run={directory}")
    cfg = configure(tmp_path / "run", *typed)
    insists = configure(tmp_path / "run", *typed, "guidance.weak.trust=[evil_stage]")
    for call in (
        lambda: preflight(cfg),
        lambda: train(cfg),
        lambda: trained(str(directory)),
        lambda: preflight(insists),
        lambda: train(insists),
    ):
        with pytest.raises(UserError, match=r"not allowed|trusted on the command line"):
            call()
    assert not payload.exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name", ["runs.stages.identity", "configuration.loading.load_model", "configuration.loading.UserError"]
)
def test_no_other_function_of_the_package_can_be_a_target(name):
    assert locate("diffsweep.configuration.loading.trained") is trained
    with pytest.raises(UserError, match="not allowed"):
        locate(f"diffsweep.{name}")


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher"), reason="not installed")
def test_parallel_jobs_of_a_sweep_train_a_stage_once(process, fast, tmp_path):
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = process("train", "-m", "seed=0,1,2", *parallel, *fast, *GUIDED, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (stage,) = tmp_path.glob("outputs/stages/ddpm_*")
    assert done.stdout.count("needs and first trains") == 1
    assert done.stdout.count("was trained before") == 2
    runs = list(tmp_path.glob("outputs/sweeps/*/*/config.yaml"))
    assert len(runs) == 3
    for run in runs:
        assert OmegaConf.load(run).guidance.weak.run == str(stage.relative_to(tmp_path))


@pytest.mark.slow
def test_two_ranks_share_the_stage_that_the_first_trains(process, fast, tmp_path):
    done = process("train", *fast, *GUIDED, "trainer=ddp", "trainer.accelerator=cpu", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("needs and first trains") == 1
    assert len(list(tmp_path.glob("outputs/stages/ddpm_*"))) == 1
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_a_stage_matches_the_noise_that_frames_share():
    """Noises are compared by covariance, not by name; runs from before the option had independent noise."""
    cfg = OmegaConf.create({"space": {"num_frames": 4}, "choices": {"noise": "shared"}})

    def message(theirs, ours, inherit=("schedule",)):
        node = OmegaConf.create({"inherit": list(inherit), "run": "weak", "train": None})
        stage = Stage(node, cfg, noise=theirs)
        return stages_match_the_noise(cfg, parts_of(noise=ours, stages={"guidance.weak": stage}))

    for theirs, ours in ((None, INDEPENDENT), (None, SharedNoise(0)), (SharedNoise(0.5), SharedNoise(0.5))):
        assert message(theirs, ours) is None
    for theirs, ours in ((None, SharedNoise()), (SharedNoise(0.4), SharedNoise()), (ProgressiveNoise(), INDEPENDENT)):
        assert "give another run in guidance.weak.run" in message(theirs, ours)
        assert message(theirs, ours, inherit=("dataset",)) is None  # it depends on no noise


def test_a_stage_that_would_require_itself_is_refused():
    cfg = fresh_compose("train", ["model=ldm", 'autoencoder.model.train=["trainer.max_steps=2"]'])
    with pytest.raises(UserError, match="would require itself; begin its overrides with those of model=autoencoder_kl"):
        stages_of(cfg)


def test_sampling_requires_no_model_that_only_measures(finished):
    gone = [f"run={finished}", "metrics=classifier", "metrics.features.model.run=/nowhere"]
    preflight(fresh_compose("sample", gone))
    with pytest.raises(UserError, match=r"nowhere: .* is no run"):
        preflight(fresh_compose("evaluate", gone))
