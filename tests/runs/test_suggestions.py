"""A word that is nearly right, or lies elsewhere, is answered with what to type; former names are read."""

import re
from pathlib import Path

import pytest
from composing import composed
from omegaconf import OmegaConf

from diffsweep.configuration.arguments import read_arguments
from diffsweep.configuration.compose import compose
from diffsweep.configuration.moved import MOVED, MOVED_KEYS
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.saved import load_config
from diffsweep.configuration.show import shown
from diffsweep.configuration.texts import folded
from diffsweep.errors import UserError

NAMES = [  # what is typed, and the whole answer after the key
    ("lr=1e-3", "no such key, did you mean optimizer.lr?"),
    ("modle=edm", "no such key, did you mean model?"),
    ("+lr=1e-3", "no such key, did you mean optimizer.lr?"),
    ("trainer.lr=1e-3", "no such key, did you mean optimizer.lr?"),
    ("steps=20", "no such key, did you mean sampler.steps or callbacks.sample_grid.steps?"),
    ("channels=64", "no such key, did you mean dataset.channels or backbone.channels?"),
    ("max_steps=100", "no such key, did you mean trainer.max_steps?"),
    ("max_step=100", "no such key, did you mean trainer.max_steps?"),
    ("trainer_max_steps=100", "no such key, did you mean trainer.max_steps?"),
    ("batch_size=8", "no such key, did you mean dataset.batch_size or metrics.batch_size?"),
    ("model=classifier_free scale=3", "no such key, did you mean guidance.scale?"),
    ("ema.decay=0.9", "no such key, did you mean callbacks.ema.decay?"),
    ("guidance_scale=3", "no such key, did you mean guidance.scale?"),
    (
        "scale=3",
        "no such key; teacher.scale is a key of teacher=trained; guidance.scale is a key of guidance=autoguidance,",
    ),
    ("patch_size=2", "no such key; backbone.patch_size is a key of backbone=dit, dit3d, uvit"),
    ("labels=[3]", "no such key; conditioning.labels is a key of conditioning=class"),
    ("optimizer=adam weight_decay=0", "no such key; optimizer.weight_decay is a key of optimizer=adamw"),
    ("optimizer.zzzz=1", "no such key; optimizer has lr, betas, weight_decay, fused"),
    ("conditioning.zzzz=1", "no such key; conditioning has no keys with conditioning=none"),
    (
        "trainer.strategy=ddp",
        "trainer=auto has no such key; trainer=ddp, fsdp have it, or add it: +trainer.strategy=VALUE",
    ),
    ("trainer.fast_dev_run=1", "no option sets it; add it: +trainer.fast_dev_run=VALUE"),
    ("optimizer.amsgrad=true", "no option sets it; add it: +optimizer.amsgrad=VALUE"),
    ("learning_rates=1", "no such key"),
]


@pytest.mark.parametrize(("typed", "answer"), NAMES)
def test_a_key_is_answered_with_where_it_lies(typed, answer):
    key = typed.split()[-1].lstrip("+").partition("=")[0]
    with pytest.raises(UserError, match=f"^{re.escape(f'{key}: {answer}')}"):
        compose("train", typed.split())


@pytest.mark.parametrize(
    ("command", "typed", "answer"),
    [
        ("evaluate", "plan=true", "plan: no such key of evaluate.py; it is one of train.py"),
        ("benchmark", "pages=3", "pages: no such key of benchmark.py; it is one of sample.py"),
        ("benchmark", "cases={a:['seed=1']}", "cases: names are added to it: write +cases={a:['seed=1']}"),
        ("benchmark", "cases=[]", "cases is no list, but values by name: write +cases.NAME=VALUE, or leave it out"),
        ("benchmark", "~cases", "~cases: benchmark.py always has this key; leave the word out"),
        ("train", "~seed", "~seed: train.py always has this key; leave the word out"),
    ],
)
def test_a_key_of_a_command_is_answered_as_one(command, typed, answer, finished):
    with pytest.raises(UserError) as error:
        compose(command, [*([f"run={finished}"] if command == "evaluate" else []), typed])
    assert str(error.value) == answer


def test_a_key_is_found_among_the_options_of_the_run(finished):
    for typed, answer in (("steps=2", "sampler.steps"), ("source=a.png", "task.source is a key of task=.*edit")):
        with pytest.raises(UserError, match=answer):
            compose("sample", [f"run={finished}", typed])


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("dataset=imagefolder", "no such option, did you mean image_folder?"),
        (
            "dataset=zzzz",
            "no such option; dataset has arrow, digits, hub (and 5 presets: fashion_mnist ... imagenet), ",
        ),
        (
            "metrics=vgg",
            "no such option; metrics has classifier, clip, digits, dinov2, fvd, inception, moving_digits, none",
        ),
        ("sampler=dpm", "no such option, did you mean dpm_solver?"),
        ("hydra/launcher=slurm", "no such option, did you mean submitit_slurm?"),
        ("hydra/launcher=rayy", "did you mean ray? pip install hydra-ray-launcher; installed: basic"),
        ("hydra/launcher=joblb", "no such option, did you mean joblib?"),
        ("hydra/launcher=zzzz", "pip install hydra-ray-launcher for ray; pip install hydra-rq-launcher for rq"),
        ("hydra/sweeper=ax", "is not installed: pip install hydra-ax-sweeper; installed: basic, optuna"),
        ("hydra/sweeper=zzzz", "no such option; installed: basic, optuna; pip install hydra-ax-sweeper for ax"),
        ("hydra/job_logging=zzzz", "no such option; installed: default, disabled, none, stdout"),
    ],
)
def test_an_option_is_answered_with_those_of_its_group(typed, answer):
    with pytest.raises(UserError) as refused:
        compose("train", [typed])
    assert str(refused.value).startswith(typed)
    assert answer in str(refused.value)


def test_presets_are_folded_where_options_are_many():
    assert {"dit3d", "adm_classifier_128"} <= set(folded("backbone"))
    assert "dit (and 12 presets: dit_s_2 ... dit_xl_8)" in list(folded("backbone"))
    assert "kl_f4" in list(folded("autoencoder"))


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("trainer.precision=bf16-mixd", "no such value, did you mean bf16-mixed? it is one of bf16-mixed, 16-mixed,"),
        ("trainer.accelerator=gpus", "did you mean gpu? Lightning has gpu, auto, cpu, .*trainer_accelerator_is_known"),
        ("trainer.accelerator=zzzz", "no such accelerator; Lightning has auto, cpu, cuda, gpu"),
        (
            "trainer=ddp trainer.strategy=dpp",
            "did you mean ddp? Lightning has ddp, .*[rule trainer_strategy_is_known]",
        ),
        ("trainer.devices=0", "must be at least 1, .*[rule trainer_devices_are_valid]"),
        ("trainer.devices=two", "is no number of devices; use a number, of GPUs a list such as [0,1], or auto"),
        ("trainer=cpu trainer.devices=[0,1]", "trainer.devices=2 [rule trainer_devices_are_valid]"),
        ("trainer=ddp trainer.num_nodes=0", "trainer.num_nodes is .* at least 1, not 0 [rule num_nodes_is_positive]"),
        ("trainer.limit_val_batches=2.5", "invalid value 2.5 .*[rule trainer_settings_are_accepted]"),
        ("+trainer.gradient_clip_algorithm=norms", "Allowed algorithms: ['value', 'norm']"),
        ("trainer.gradient_clip_val=abc", "it should be an integer or a number"),
        ("trainer.deterministic=maybe", "no such value; it is one of warn, null, true, false"),
        ("sampler.spacing=leadin", "no such value, did you mean leading? it is one of leading, uniform, trailing,"),
        ("sampler.start=0", "data are clean, so no step is left and an image stays as it is; use a time up to 1"),
    ],
)
def test_a_value_is_answered_with_what_is_accepted(typed, answer):
    with pytest.raises(UserError) as refused:
        preflight(composed("train", "logger=csv", *typed.split()))
    for part in answer.split(" .*"):
        assert part in str(refused.value)


@pytest.mark.parametrize("typed", ["trainer.devices=[0,1]", "trainer.devices=-1", "+trainer.max_time={hours: 1}"])
def test_what_lightning_accepts_passes(typed):
    preflight(composed("train", "logger=csv", typed))


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("--experiment=x", "options take no dashes: experiment=x"),
        ("--seed 3", "options take no dashes: seed=3"),
        ("--schedule", "options take no dashes: schedule=VALUE"),
        ("--trainer.max-steps=3", "options take no dashes: trainer.max_steps=3"),
        ("--lr=1e-3", "options take no dashes, .* lr: no such key, did you mean optimizer.lr?"),
        ("--foo=bar", "options take no dashes, as in seed=1 or schedule=linear; foo: no such key"),
        ("-x", "options take no dashes"),
        ("--multirun=3", "options take no dashes"),
        ("--cfg", "--cfg needs a value, such as --cfg job"),
        ("--cfg jobs", "--cfg jobs: write --cfg job"),
        ("--resolve", "--resolve goes with --cfg job"),
    ],
)
def test_a_word_with_dashes_is_answered_with_the_override(typed, answer, command):
    done = command("train", *(["seed=1"] if "cfg" not in typed else []), *typed.split())
    assert done.code == 2
    (line,) = done.err.splitlines()
    for part in answer.split(" .*"):
        assert part in line


def test_switches_are_hydras():
    read = read_arguments(["-m", "seed=1,2", "-c", "job", "--resolve", "--package=space"], "train")
    assert read.overrides == ["seed=1,2"]
    assert read.switches == {"--multirun": "", "--cfg": "job", "--resolve": "", "--package": "space"}
    assert read_arguments(["-sc", "query=bash"], "train").switches == {"--shell-completion": ""}


def test_a_shown_configuration_has_the_sizes_of_the_run(compose):
    for overrides, key, expected in (
        (["model=improved_ddpm"], "space.out_channels", 2),
        (["model=classifier_free"], "condition.num_classes", 10),
        (["model=classifier_free", "dataset=shapes", "conditioning=text", "metrics=none"], "condition.context_dim", 64),
        (["conditioning=image"], "condition.image_channels", 1),
    ):
        cfg = OmegaConf.create(shown("train", overrides))
        assert OmegaConf.select(cfg, key) == expected


def test_a_shown_configuration_is_resolved_where_it_can_be(command):
    typed = ("model=classifier_free", "--cfg", "job", "--resolve")
    done = command("train", *typed, "seed=${nowhere}")
    assert done.code == 0
    assert done.err.startswith("NOTE: without a value before the model is built: seed, ")
    cfg = OmegaConf.to_container(OmegaConf.create(done.out), resolve=False)
    assert cfg["space"]["channels"] == cfg["model"]["backbone"]["in_channels"] == 1
    assert cfg["model"]["backbone"]["num_classes"] == 10
    assert cfg["seed"] == "${nowhere}"
    assert "${" not in done.out.replace("${nowhere}", "").replace("${seed}", "")
    assert not list(Path.cwd().iterdir())


def test_a_configuration_is_shown_without_sizes_that_cannot_be_known(capsys):
    text = shown("train", ["conditioning=text"], package="condition")
    assert OmegaConf.create(text).context_dim is None
    assert (
        "sizes that the conditioning provides are not filled in: conditioning.encoder.vocabulary"
        in capsys.readouterr().err
    )
    with pytest.raises(UserError, match="--package nowhere: no such key"):
        shown("train", [], package="nowhere")


def test_each_job_of_a_sweep_is_shown(command):
    done = command("train", "-m", "seed=1,2", "--cfg", "job", "-p", "seed")
    assert (done.code, done.out) == (0, "1\n---\n2\n")


def test_old_names_are_read_in_overrides(capsys):
    for prefix in ("", "++"):
        cfg = compose("train", ["sampler=heun", f"{prefix}sampler.s_noise=1.0"])
        assert cfg.sampler.temperature == 1
        assert capsys.readouterr().err == "NOTE: sampler.s_noise is sampler.temperature now\n"
    old, new = next(iter(MOVED.items()))
    assert compose("train", [f"model._target_={old}"]).model._target_ == new


def test_a_sweep_names_an_old_key_once(command):
    done = command("train", "-m", "sampler.s_noise=0.9,1", "--cfg", "job", "-p", "sampler.temperature")
    assert (done.out, done.err.count("NOTE")) == ("0.9\n---\n1\n", 1)


def test_a_run_is_no_near_miss_of_a_key_where_none_is_used():
    with pytest.raises(UserError, match=r"run: src/verify.py takes no run; type the settings .* model=edm"):
        compose("verify", ["run=outputs/train/one"])


def test_old_keys_are_read_in_saved_runs(finished, tmp_path):
    saved = OmegaConf.load(finished / "config.yaml")
    saved.sampler = {"_target_": "diffsweep.samplers.Heun", "s_noise": 1.003}
    OmegaConf.save(saved, tmp_path / "config.yaml")
    assert load_config(tmp_path).sampler == {"_target_": "diffsweep.samplers.Heun", "temperature": 1.003}


@pytest.mark.parametrize(("old", "new"), MOVED_KEYS.items())
def test_moved_keys_are_keys_of_today(old, new):
    assert OmegaConf.select(compose("train", []), new) is not None
    with pytest.raises(Exception, match=old.partition(".")[2]):
        OmegaConf.update(compose("train", []), old, 1)
