"""A user's mistake gives one line with what to type instead, exit code 2, and leaves no files behind."""

import collections
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from composing import composed

from diffsweep.configuration.compose import compose
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.spelling import nearest
from diffsweep.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FREE = "model=classifier_free"
TEXT = (FREE, "dataset=shapes", "metrics=none", "conditioning=text")

# What is typed, and what the line must contain.
TYPED = [
    (["schedule=lineer"], ["schedule=lineer", "did you mean linear?", "schedule has", "cosine", "scaled_linear"]),
    (["sampler=ddmi"], ["did you mean ddim?", "sampler has ancestral"]),
    (["sampler=_walk"], ["sampler=_walk: no such option", "sampler has ancestral"]),
    (["schedule=zzzzzzzz"], ["schedule=zzzzzzzz", "no such option", "schedule has", "linear"]),
    (["schedul=linear"], ["schedul: no such key", "did you mean schedule?"]),
    (["zzzzzzzz=1"], ["zzzzzzzz: no such key"]),
    (["trainer.max_step=5"], ["trainer.max_step: no such key", "did you mean trainer.max_steps?"]),
    (["backbone.chanels=8"], ["backbone.chanels: no such key", "did you mean backbone.channels?"]),
    (["+zzzzzzzz=1"], ["zzzzzzzz: no such key"]),
    (["+sed=1"], ["sed: no such key", "did you mean seed?"]),
    (["+schedule.num_step=9"], ["schedule.num_step: no such key", "did you mean num_steps?"]),
    (["+schedule.zzzzzzzz=9"], ["schedule.zzzzzzzz: no such key", "schedule has num_steps"]),
    (["+callbacks.ema.dekay=0.9"], ["callbacks.ema.dekay: no such key", "did you mean decay?"]),
    (["+trainer.max_stepz=9"], ["trainer.max_stepz: no such key", "did you mean max_steps?"]),
    (["+paths.here=9"], ["paths.here: no such key"]),
    (["trainer.max_steps=abc"], ["trainer.max_steps=abc", "integer"]),
    (["schedule.num_steps=10.5"], ["schedule.num_steps=10.5", "integer"]),
    (["backbone.channels=wide"], ["backbone.channels=wide", "integer"]),
    (["backbone.channel_mult=[1,x]"], ["backbone.channel_mult", "integer"]),
    (["backbone.channel_mult=2"], ["backbone.channel_mult=2", "should be a list, such as [2]"]),
    (
        ["backbone.patch_size=2"],
        ["backbone.patch_size: backbone=unet has no such key; backbone=dit, dit3d, uvit have it"],
    ),
    (
        ["backbone=dit_s_2", "backbone.patch_size=3"],
        ["patch_size=3 does not divide the 8-pixel image; use 1, 2, 4 or 8"],
    ),
    (["backbone=pixart", "backbone.block=adaln_one"], ["backbone.block=adaln_one", "adaln_single"]),
    (["backbone=dit_xl_3"], ["did you mean dit_xl_"]),
    (["seed=abc"], ["seed=abc", "int"]),
    (["trust=os"], ["trust"]),
    (["optimizer.lr=fast"], ["optimizer.lr=fast", "number"]),
    (["sampler.spacing=sideways"], ["sampler.spacing=sideways", "uniform"]),
    (["sampler.clip=maybe"], ["sampler.clip=maybe", "static"]),
    (["schedule.num_steps=0"], ["num_steps"]),
    (["schedule.num_steps=-3"], ["num_steps"]),
    (["sampler.steps=0"], ["steps"]),
    (["sampler.start=0.2", "sampler.stop=0.2"], ["sampler.stop < sampler.start"]),
    (["sampler=heun", "sampler.temperature=0.5"], ["sampler.temperature=0.5", "draws no noise", "sampler=ancestral"]),
    (["sampler=heun", "sampler.s_min=0.1"], ["sampler.s_min", "sampler.s_churn above 0"]),
    (["sampler=unipc", "+sampler.eta=1.0"], ["sampler.eta", "no such key"]),
    (["dataset.batch_size=0"], ["dataset.batch_size", "at least 1"]),
    (["dataset.num_workers=-1"], ["dataset.num_workers", "at least 0"]),
    (["dataset.image_size=16"], ["digits"]),
    (["dataset=parquet"], ["dataset.path is missing", "dataset.path=train.parquet"]),
    (["dataset=cifar10", "dataset.path=nowhere.parquet"], ["dataset.path=nowhere.parquet", "no such file"]),
    (["callbacks.ema.decay=1.5"], ["callbacks.ema.decay"]),
    (["trainer.max_steps=0"], ["trainer.max_steps", "[rule max_steps_is_positive]"]),
    (["trainer.check_val_every_n_epoch=1"], ["trainer.val_check_interval", "[rule validation_is_by_steps]"]),
    (["trainer.val_check_interval=0"], ["trainer.val_check_interval", "[rule intervals_are_positive]"]),
    (["trainer.log_every_n_steps=0"], ["trainer.log_every_n_steps"]),
    (["trainer.accumulate_grad_batches=0"], ["trainer.accumulate_grad_batches"]),
    (["trainer.precision=17"], ["precision", "17"]),
    (
        ["logger=wandb", "logger.mode=sometimes"],
        ["online, offline, disabled", "sometimes", "[rule logger_mode_is_known]"],
    ),
    (["metrics=digits", "metrics.num_samples=1"], ["metrics.num_samples", "at least 2"]),
    (["metrics=digits", "metrics.reference=test"], ["metrics.reference", "halves"]),
    (["optimizer.lr=-1"], ["lr"]),
    (["schedule=linear,cosine"], ["schedule", "-m"]),
    (["schedule=3"], ["schedule=3", "schedule has", "linear"]),
    (["schedule.zero_terminal_snr=true"], ["no signal left", "use prediction=v", "[rule x0_is_finite_at_t_1]"]),
    (["backbone.in_channels=2"], ["it is space.channels, which is 1", "[rule sizes_follow_from_the_data]"]),
    (["autoencoder=vq_f4", "autoencoder.network.in_channels=2"], ["it is dataset.channels, which is 1; leave"]),
    (["autoencoder.channels=2"], ["it is dataset.channels, which is 1; leave autoencoder.channels out"]),
    (["autoencoder.image_size=4"], ["it is dataset.image_size / 1, which is 8; leave autoencoder.image_size out"]),
    (["autoencoder.num_frames=2"], ["it is space.num_frames, which is null; leave autoencoder.num_frames out"]),
    (["space.channels=2"], ["it is autoencoder.channels, which is 1; leave space.channels out"]),
    (["schedule=flow"], ["no signal left", "flow", "[rule x0_is_finite_at_t_1]"]),
    (["model=noisy_classifier", "dataset.num_classes=1"], ["digits"]),
    (["model=noisy_classifier", "backbone.num_classes=1"], ["at least 2 classes", "has 1;", "with labels"]),
    (["model=noisy_classifier", "backbone.num_classes=null"], ["no labels", "choose a dataset with labels"]),
    (
        ["model=noisy_classifier", "backbone=unet"],
        ["use backbone=encoder_unet", "[rule required_capabilities_are_provided]"],
    ),
    (["backbone=encoder_unet"], ["use model=noisy_classifier", "[rule provided_capabilities_are_supported]"]),
    (["model=noisy_classifier", "metrics=digits"], ["use metrics=none", "[rule required_capabilities_are_provided]"]),
    (["model=noisy_classifier", "likelihood=bound"], ["likelihood=none", "[rule required_capabilities_are_provided]"]),
    (
        ["model=noisy_classifier", "callbacks=default"],
        ["callbacks=minimal", "[rule required_capabilities_are_provided]"],
    ),
    (
        ["guidance=classifier_free"],
        ["requires a condition", "model=classifier_free", "[rule required_capabilities_are_provided]"],
    ),
    (
        [FREE, "conditioning.dropout=0"],
        ["null condition", "conditioning.dropout=0.1", "[rule required_capabilities_are_provided]"],
    ),
    (
        [FREE, "backbone.num_classes=null", "guidance=none"],
        ["accepts nothing", "backbone.num_classes=10", "[rule network_accepts_the_condition]"],
    ),
    (
        [FREE, "backbone.num_classes=7"],
        ["num_classes=10", "has num_classes=7", "[rule network_accepts_the_condition]"],
    ),
    (
        [FREE, "guidance.scale=[1,2,3,4,5,6,7]"],
        ["7 values", "steps", "sampler.steps"],
    ),
    ([FREE, "guidance.shape=square"], ["guidance.shape=square", "constant", "cosine"]),
    ([FREE, "conditioning.labels=[12]"], ["conditioning.labels: no class 12; ids are 0 to 9"]),
    ([FREE, "conditioning.labels=[sevn]"], ["no class named sevn", "did you mean seven?", "zero, one"]),
    ([FREE, "conditioning=text"], ["text needs a dataset with captions, such as dataset=shapes"]),
    ([FREE, "conditioning=scalars"], ["no numbers", "dataset=shapes"]),
    ([*TEXT, "conditioning.prompts=[' ']"], ["conditioning.prompts has an empty text"]),
    ([*TEXT, "conditioning.prompts=[a smal circle]"], ["no word 'smal'", "did you mean small?"]),
    (
        [*TEXT, "backbone=uvit"],
        ["provides a sequence of tokens", "unet and dit", "[rule network_accepts_the_condition]"],
    ),
    (
        ["dataset=shapes", "metrics=digits"],
        ["metrics=digits measures", "(3, 16, 16)", "metrics=classifier", "[rule metrics_match_the_data]"],
    ),
    (
        ["model=video", "metrics=digits"],
        ["measures images of shape (1, 8, 8)", "(1, 8, 16, 16)", "use metrics=fvd", "[rule metrics_match_the_data]"],
    ),
    (["metrics=moving_digits"], ["measures clips of shape", "use metrics=classifier", "[rule metrics_match_the_data]"]),
    (
        ["model=video", "metrics=classifier"],
        ["clips", "classifiers are of images", "use metrics without one", "[rule classifier_data_are_images]"],
    ),
    (
        ["model=video", "metrics=moving_digits", "dataset.num_frames=3"],
        ["requires clips of at least 4 frames", "dataset.num_frames=4", "[rule clips_are_long_enough_for_metrics]"],
    ),
    (["model=video", "metrics=fvd"], ["metrics.features.path is missing", "I3D", "i3d_torchscript.pt"]),
    (["model=video", "metrics=fvd", "metrics.features.path=nowhere.pt"], ["nowhere.pt: no such file"]),
    (["dataset=shapes", "metrics=none", "dataset.held_out=[[red,ring]]"], ["ring", "circle, square, triangle, cross"]),
    (
        ["model=improved_ddpm", "schedule=vp"],
        ["schedule=cosine, ", "or objective=vlb", "[rule required_capabilities_are_provided]"],
    ),
    (["objective=vlb"], ["prediction.variance=learned_range", "[rule discrete_bound_learns_its_variance]"]),
    (
        ["model=improved_ddpm", "objective=simple"],
        ["objective=hybrid", "fixed_small", "[rule provided_capabilities_are_supported]"],
    ),
    (["model=vdm", "prediction.variance=learned_range"], ["fixed_small", "[rule learned_variance_has_discrete_steps]"]),
    (["schedule=learned"], ["objective=vlb", "collapse", "[rule provided_capabilities_are_supported]"]),
    (["schedule=learned", "schedule.num_steps=100"], ["schedule.num_steps", "cosine", "have it"]),
    (
        ["time_sampling=importance"],
        ["objective=vlb", "time_sampling=uniform", "[rule required_capabilities_are_provided]"],
    ),
    (["model=vdm", "time_sampling=importance"], ["time_sampling=uniform", "[rule required_capabilities_are_provided]"]),
    (["model=vdm", "time_sampling=log_normal"], ["stratified", "[rule required_capabilities_are_provided]"]),
    (
        ["objective=dsm", "weighting=p2"],
        ["weighting=uniform", "objective=simple", "[rule provided_capabilities_are_supported]"],
    ),
    (
        ["objective=dsm", "objective.weight=likelihood"],
        ["schedule=cosine_continuous", "objective.weight=sigma2", "[rule required_capabilities_are_provided]"],
    ),
    (["schedule.num_steps=1", "schedule.zero_terminal_snr=true"], ["at least 2"]),
    (["schedule="], ["schedule"]),
    (["schedule"], ["schedule"]),
    (["seed=[1"], ["seed=[1"]),
    (["backbone.channels=${nowhere}"], ["backbone.channels", "nowhere"]),
    (["debug=slow"], ["debug=slow", "debug has fast"]),
    (["~schedule"], ["schedule"]),
    (["~seed"], ["seed"]),
    (["schedule._target_=os.system"], ["os.system", "not allowed"]),
    (["schedule._target_=diffsweep.schedules.Cosin"], ["diffsweep.schedules", "Cosin"]),
]


def line_of(done):
    assert done.code == 2
    assert "Traceback" not in done.err + done.out
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    return line


# One of each kind: a word that cannot be read, an option, a key, a new key, a type, a target, a value, a file, a part,
# a rule, a reference.
KINDS = (
    "seed=[1",
    "schedule=lineer",
    "backbone.chanels=8",
    "+callbacks.ema.dekay=0.9",
    "trainer.max_steps=abc",
    "schedule._target_=os.system",
    "sampler.steps=0",
    "dataset=cifar10 dataset.path=nowhere.parquet",
    "backbone=dit_s_2 backbone.patch_size=3",
    "guidance=classifier_free",
    "backbone.channels=${nowhere}",
    "schedule=linear,cosine",
)
MISTAKES = {" ".join(typed): (typed, expected) for typed, expected in TYPED}


def one_of_each_rule():
    """Return the mistakes as parameters; one that breaks a rule which two earlier ones break is slow."""
    broken = collections.Counter()
    parameters = []
    for mistake, (_, expected) in MISTAKES.items():
        rule = next((part for part in expected if part.startswith("[rule ")), None)
        broken[rule] += 1
        slow = rule is not None and broken[rule] > 2
        parameters.append(pytest.param(mistake, marks=pytest.mark.slow if slow else ()))
    return parameters


@pytest.mark.parametrize("mistake", one_of_each_rule())
def test_a_mistake_is_answered_with_what_to_type(mistake, fast, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed, expected = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        preflight(composed("train", *fast, *typed))
    line = str(error.value)
    assert "\n" not in line
    for part in expected:
        assert part.lower() in line.lower()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "mistake",
    [pytest.param(m, marks=() if m in KINDS else pytest.mark.slow) for m in sorted(MISTAKES | dict.fromkeys(KINDS))],
)
def test_one_line_and_nothing_left_behind(mistake, command, fast):
    """The command prints that line."""
    typed, expected = MISTAKES[mistake]
    line = line_of(command("train", *fast, *typed))
    for part in expected:
        assert part.lower() in line.lower()
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(("command_name", "key"), [("sample", "run"), ("evaluate", "run"), ("train", "resume")])
def test_a_folder_that_is_no_run_is_refused(command_name, key, command, finished, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.yaml").write_text("a: 1\n")
    bare = shutil.copytree(finished, tmp_path / "bare", ignore=shutil.ignore_patterns("*.ckpt"))
    for directory, expected in (
        ("nowhere", "no such folder"),
        (tmp_path / "empty", "it has no config.yaml"),
        (tmp_path / "foreign", "was not written by train.py"),
        (bare, "last.ckpt"),
    ):
        line = line_of(command(command_name, f"{key}={directory}", "metrics=digits"))
        assert expected in line
        assert str(directory) in line
        assert not list(Path.cwd().iterdir())
    assert sorted(path.name for path in bare.rglob("*") if path.is_file()) == ["config.yaml", "metrics.csv"]


@pytest.mark.parametrize("name", ["sample", "evaluate"])
def test_a_run_must_be_given(name, command):
    assert "run= is missing" in line_of(command(name))
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["num_samples=0"], "num_samples"),
        (["batch_size=0"], "batch_size"),
        (["sampler=ddmi"], "did you mean ddim?"),
        (["sampler.stepz=3"], "did you mean sampler.steps?"),
        (["num_sample=3"], "did you mean num_samples?"),
        (["backbone.channels=16"], "do not fit"),
    ],
)
def test_a_mistake_in_sampling(typed, expected, command, finished):
    before = sorted(finished.rglob("*"))
    assert expected in line_of(command("sample", f"run={finished}", *typed))
    assert not list(Path.cwd().iterdir())
    assert sorted(finished.rglob("*")) == before


@pytest.mark.parametrize("typed", [["num_samples=0"], ["num_samples=1"], []])
def test_a_mistake_in_evaluating(typed, command, finished):
    """Without samples, or with metrics=none as in the run, nothing can be measured."""
    before = sorted(finished.rglob("*"))
    metrics = ["metrics=digits"] if typed else []
    line = line_of(command("evaluate", f"run={finished}", *metrics, *typed))
    assert ("num_samples" if typed else "metrics=digits") in line
    assert sorted(finished.rglob("*")) == before


def test_a_run_directory_in_use_is_refused(command, finished, fast):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    line = line_of(command("train", *fast, f"hydra.run.dir={finished}"))
    assert "has a run already" in line
    assert f"resume={finished}" in line
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_mistake_in_one_job_of_a_sweep_starts_none(where, command, fast):
    arguments = ["schedule=linear,cosine,lineer", "seed=0,1"]
    arguments.insert(where, "-m")
    assert "did you mean linear?" in line_of(command("train", *arguments, *fast))
    assert not list(Path.cwd().iterdir())


def test_the_trace_comes_back_on_demand(command, monkeypatch, finished):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(UserError, match="did you mean linear"):
        command("train", "schedule=lineer")
    with pytest.raises(UserError, match="nowhere"):
        command("sample", "run=nowhere")
    with pytest.raises(UserError, match="num_samples"):
        command("sample", f"run={finished}", "num_samples=0")


def test_a_process_prints_one_line(process, tmp_path):
    done = process("train", "backbone.chanels=8", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: backbone\.chanels: .*did you mean backbone\.channels\?\n", done.stderr)
    done = process("train", "schedule=lineer", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_wrong_word_from_python():
    with pytest.raises(UserError, match="did you mean linear"):
        compose("train", ["schedule=lineer"])
    with pytest.raises(UserError, match=r"trainer\.max_steps=abc"):
        preflight(compose("train", ["logger=csv", "trainer.max_steps=abc"]))


def test_every_default_passes_preflight():
    preflight(compose("train", ["logger=csv"]))
    preflight(compose("benchmark", []))


def test_nearest_names_only_what_is_near():
    assert nearest("lineer", ["linear", "cosine"]) == ", did you mean linear?"
    assert nearest("xyz", ["linear", "cosine"]) == ""


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ("model=improved_ddpm", "sampler=ddim"),
            "does not use the learned variance; sampler=ancestral does [sampler_uses_the_learned_variance]",
        ),
        (("sampler.start=0.6",), "task=edit, which starts from images [sampling_from_noise_starts_at_t_1]"),
        (
            ("sampler.clip=none", "sampler=ddim"),
            "(schedule=linear, scaled_linear) [x0_is_clipped_or_its_error_bounded]",
        ),
        (
            ("backbone.num_classes=10",),
            "which the conditioning does not provide [conditioning_provides_what_the_network_accepts]",
        ),
        (("model=improved_ddpm",), ""),
        ((), ""),
    ],
)
def test_what_may_not_be_intended_is_a_warning_of_one_line(compose, capsys, overrides, expected):
    preflight(compose(*overrides))
    err = capsys.readouterr().err
    assert err.count("\n") == bool(expected)
    assert err.startswith("warning: ") == bool(expected)
    assert expected in err


def test_a_reader_that_ends_early_is_no_error(tmp_path):
    """As with `python src/runs.py | head`: the output cannot be written, and nobody is left to read a message."""
    for number in range(300):
        (tmp_path / "train" / str(number)).mkdir(parents=True)
        (tmp_path / "train" / str(number) / "metrics.json").write_text("{}")
    line = [sys.executable, str(ROOT / "src/runs.py"), f"paths.output_dir={tmp_path}"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
