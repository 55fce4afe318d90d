"""The configuration of a run may come from anyone: it builds classes of diffsweep and runs nothing else."""

import contextlib
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from composing import composed
from omegaconf import OmegaConf, open_dict
from slower import squared

from diffsweep.configuration.check import NAMES, check, locate
from diffsweep.configuration.compose import compose
from diffsweep.configuration.conf import content, files, groups, leaves
from diffsweep.configuration.loading import load_model
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.show import shown
from diffsweep.errors import UserError
from diffsweep.runs.training import train

FORBIDDEN = (
    "os.system",
    "posix.system",
    "subprocess.run",
    "builtins.exec",
    "builtins.eval",
    "torch.load",
    "torch.save",
    "torch.hub.load",
    "torch.nn.functional.torch.load",
    "torch.optim.lr_scheduler.LambdaLR",
    "torch.optim.optimizer.torch.load",
    "torch.nn.Linear",
    "diffsweep.configuration.build.torch.load",
    "diffsweep.runs.training.subprocess.run",
    "diffsweep.runs.training.os.system",
    "diffsweep.files.os.unlink",
    "diffsweep.models.DiffusionModel.load_from_checkpoint",
    "diffsweep.configuration.build.instantiate",
    "hydra.utils.instantiate",
    "hydra.utils.call",
    "lightning.Trainer.fit",
    "diffsweep.callbacks.checkpoints.restore_last",
    "diffsweep.callbacks.checkpoints.write_tensors",
    "diffsweep.callbacks.checkpoints.AtomicCheckpoints.save_checkpoint",
    "diffsweep.metrics.reference_statistics.write_statistics",
    "diffsweep.datasets.latents.write_latents",
    "diffsweep.datasets.decoding._make",
    "diffsweep.tensor_files.write_tensors",
    "diffsweep.schedules.Cosine.__init__",
    "diffsweep.schedules.Cosine.__init__.__globals__",
    "diffsweep.schedules.Cosine.__subclasses__",
    "diffsweep.schedules.Cosine.__class__",
    "diffsweep.schedules.Cosine.__reduce_ex__",
    "diffsweep.schedules",
    "diffsweep.schedules.",
    "diffsweep.schedulesx.Cosine",
    "diffsweep..schedules.Cosine",
    ".diffsweep.schedules.Cosine",
    "diffsweep.schedules.Cosine\n",
    " diffsweep.schedules.Cosine",
    "diffsweep.schedules.\0",
    "diffsweep.schedules.C\u043esine",
    "diffsweep",
    "torch",
    "",
    "None",
    "torch.optim.Adam.load_state_dict",
    "torch.optim.adamw.adamw",
    "torch.optim.swa_utils.update_bn",
    "torch.optim.lr_scheduler.types.FunctionType",
    "torch.utils.bottleneck.__main__.main",
    "torch.optim.sys.exit",
    "lightning.pytorch.Trainer",
    "lightningx.Trainer",
    "torchx.anything",
    "diffsweepx.Model",
)


@pytest.mark.parametrize("name", FORBIDDEN)
def test_foreign_targets_are_refused(name):
    with pytest.raises(UserError, match=r"_target_"):
        locate(name)


@pytest.mark.parametrize(
    "name", ["diffsweep.schedules.Cosine", "torch.optim.AdamW", "torch.optim.adam.Adam", "lightning.Trainer"]
)
def test_what_a_run_is_made_of_is_allowed(name):
    assert locate(name).__name__ == name.rpartition(".")[2]


FUNCTIONS = sorted(
    {
        str(value)
        for group in groups()
        for option in files(group)
        for key, value in leaves(content(group, option))
        if key.rpartition(".")[2] == "_target_" and str(value).rpartition(".")[2].islower()
    }
)


def test_functions_that_options_name_are_allowed_under_any_name_of_theirs():
    assert len(FUNCTIONS) > 5
    for name in FUNCTIONS:
        found = locate(name)
        if name not in NAMES:
            assert locate(f"{found.__module__}.{found.__qualname__}") is found


@pytest.mark.parametrize("name", ["torch.utils.bottleneck.__main__.main", "diffsweep.runs.dashboard.main"])
def test_a_module_outside_the_parts_is_not_imported(name):
    sys.modules.pop(module := name.rpartition(".")[0], None)
    with pytest.raises(UserError, match="not allowed"):
        locate(name)
    assert module not in sys.modules


def test_a_nested_target_is_refused(payload):
    """In lists and mappings at any depth, whole and partial, and a target that is no text."""
    whole, partial = payload.plain, {**payload.plain, "_partial_": True}
    for value in (
        [1, whole],
        [[partial]],
        {"a": {"b": [{"c": whole}]}},
        {"_target_": "diffsweep.callbacks.EMA", "decay": partial},
        {"inner": {"_target_": ["evil_target.touch"], "path": "a"}},
        {"inner": {"_target_": None, "path": "a"}},
    ):
        cfg = composed("train", "debug=fast", "logger=csv", "trainer=cpu")
        with open_dict(cfg):
            cfg.callbacks["more"] = value
        with pytest.raises(UserError, match="_target_"):
            check(cfg)
        assert not payload.file.exists()


def test_a_refused_package_is_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_package.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"trust=\[evil_package\]"):
        locate("evil_package.Thing")
    assert "evil_package" not in sys.modules
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["diffsweep.schedules.Nothing", "diffsweep.nowhere.Thing", "torch.optim.NoSuch"])
def test_a_target_that_does_not_exist_is_refused(name):
    with pytest.raises(UserError, match="no "):
        locate(name)


@pytest.fixture
def evil(finished, tmp_path):
    """``directory = evil(key, value)``: a finished run whose saved configuration was changed."""

    def evil(key, value):
        directory = shutil.copytree(finished, tmp_path / "evil")
        config = OmegaConf.load(directory / "config.yaml")
        OmegaConf.update(config, key, value, force_add=True)
        (directory / "config.yaml").write_text(OmegaConf.to_yaml(config))
        return directory

    return evil


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A target on no list: calling it makes a file."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "evil_target.py").write_text("def touch(path):\n    open(path, 'w').close()\n")
    monkeypatch.syspath_prepend(folder)
    yield SimpleNamespace(
        plain={"_target_": "evil_target.touch", "path": str(tmp_path / "pwned")},
        create=f"${{oc.create:{{_target_:evil_target.touch,path:'{tmp_path / 'pwned'}'}}}}",
        decode=f"${{oc.decode:\"{{_target_: evil_target.touch, path: '{tmp_path / 'pwned'}'}}\"}}",
        file=tmp_path / "pwned",
    )
    sys.modules.pop("evil_target", None)


PLACES = ("callbacks.evil", "model", "schedule", "model.schedule", "sampler.steps", "metrics", "optimizer", "dataset")


@pytest.mark.parametrize(
    ("place", "way", "command"), squared(PLACES, ("plain", "create"), ("evaluate run", "train resume"))
)
def test_a_changed_run_is_refused_before_anything_runs(evil, payload, place, way, command):
    """Written out, and as an interpolation that becomes a target when it is resolved."""
    directory, (name, key) = evil(place, getattr(payload, way)), command.split()
    try:
        with pytest.raises(UserError):
            preflight(compose(name, [f"{key}={directory}"]))
    finally:
        assert not payload.file.exists(), "executed"


@pytest.mark.parametrize("way", ["plain", "create", "decode"])
@pytest.mark.parametrize("place", ["conditioning", "prediction.variance", "model"])
def test_a_changed_run_is_shown_without_being_built(evil, payload, place, way):
    """Sizes are those of built parts, which are checked too."""
    with contextlib.suppress(UserError):
        shown("sample", [f"run={evil(place, getattr(payload, way))}"], resolve=True)
    assert not payload.file.exists(), "executed"


@pytest.mark.parametrize("place", ["callbacks.evil", "model.schedule"])
def test_a_target_in_a_string_is_not_executed(evil, payload, place):
    directory = evil(place, payload.decode)
    for command, key in (("evaluate", "run"), ("train", "resume")):
        with contextlib.suppress(Exception):
            preflight(compose(command, [f"{key}={directory}"]))
        assert not payload.file.exists()


@pytest.mark.parametrize("way", ["plain", "create"])
def test_a_changed_run_is_refused_from_python_too(evil, payload, way):
    """Nothing has called the check before."""
    directory = evil("model.schedule", getattr(payload, way))
    for call in (
        lambda: load_model(compose("sample", [f"run={directory}"])),
        lambda: train(compose("train", [f"resume={directory}", "trainer.max_steps=5"])),
    ):
        try:
            with pytest.raises(UserError):
                call()
        finally:
            assert not payload.file.exists(), "executed"


def test_a_changed_run_writes_no_file_through_ours(evil, tmp_path):
    """A function of diffsweep that is no part of a run would overwrite any file with a stranger's arguments."""
    target = {"_target_": "diffsweep.files.write_text", "path": str(tmp_path / "pwned"), "text": "anything"}
    directory = evil("callbacks.evil", target)
    with contextlib.suppress(UserError):
        preflight(compose("evaluate", [f"run={directory}"]))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("what", ["callbacks", "launcher", "env_set", "run"])
def test_a_changed_run_cannot_configure_hydra(evil, payload, tmp_path, command, monkeypatch, what):
    seen = []
    monkeypatch.setattr("diffsweep.runs.commands.sample", lambda cfg: seen.append(os.environ.get("FROM_A_RUN")))
    content = {
        "callbacks": {"callbacks": {"evil": payload.plain}},
        "launcher": {"launcher": payload.plain},
        "env_set": {"job": {"env_set": {"FROM_A_RUN": "1"}}},
        "run": {"run": {"dir": "elsewhere"}},
    }[what]
    done = command("sample", f"run={evil('hydra', content)}", "num_samples=1", f"output={tmp_path / 'out'}")
    assert not payload.file.exists()
    assert not Path("elsewhere").exists()
    assert seen in ([], [None])
    assert done.code in (0, 2)


def test_the_command_line_refuses_in_one_line(evil, tmp_path, command):
    directory = evil("callbacks.evil", {"_target_": "os.system", "command": f"touch {tmp_path / 'pwned'}"})
    for name, key in (("sample", "run"), ("evaluate", "run"), ("train", "resume")):
        done = command(name, f"{key}={directory}")
        assert done.code == 2
        assert len(done.err.splitlines()) == 1
        assert "os.system is not allowed" in done.err
    assert not (tmp_path / "pwned").exists()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A user's own package with a schedule in it."""
    folder = tmp_path / "site" / "mine_for_tests"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(
        "from diffsweep.schedules import Cosine\n\n\nclass Mine(Cosine):\n"
        "    def __init__(self, num_steps: int = 10):\n"
        "        super().__init__(num_steps)\n"
    )
    monkeypatch.syspath_prepend(folder.parent)
    yield folder.name
    sys.modules.pop("mine_for_tests", None)


def mine(directory):
    config = OmegaConf.load(directory / "config.yaml")
    config.schedule = {"_target_": "mine_for_tests.Mine", "num_steps": 20}
    (directory / "config.yaml").write_text(OmegaConf.to_yaml(config))
    return directory


def test_trust_admits_a_users_package(package, finished, tmp_path):
    directory = mine(shutil.copytree(finished, tmp_path / "run"))
    with pytest.raises(UserError, match=r"trust=\[mine_for_tests\]"):
        preflight(compose("sample", [f"run={directory}"]))
    cfg = compose("sample", [f"run={directory}", "trust=[mine_for_tests]"])
    preflight(cfg)
    assert load_model(cfg).denoiser.schedule.num_steps == 20


def test_trust_of_one_package_is_not_trust_of_another(package):
    for name in ("os.system", "torch.load", "subprocess.run", "mine_for_testsx.Mine"):
        with pytest.raises(UserError):
            locate(name, ["mine_for_tests"])


def test_a_saved_run_does_not_bring_its_trust(package, finished, tmp_path):
    directory = mine(shutil.copytree(finished, tmp_path / "run"))
    config = OmegaConf.load(directory / "config.yaml")
    config.trust = ["mine_for_tests", "os"]
    (directory / "config.yaml").write_text(OmegaConf.to_yaml(config))
    for command, key in (("sample", "run"), ("evaluate", "run"), ("train", "resume")):
        cfg = compose(command, [f"{key}={directory}"])
        assert list(cfg.trust) == []
        with pytest.raises(UserError, match="not allowed"):
            preflight(cfg)


HIDDEN = {  # values of a run's configuration that would build something foreign out of sight of a simple check
    "a name that is computed": ("sampler.temperature", "${oc.${when:true,create,0}:{_target_: os.mkdir, path: DIR}}"),
    "a node that is computed": ("sampler.temperature", "${when:true,{_target_: os.mkdir, path: DIR},1.0}"),
    "a stage that is computed and trusts others": (
        "sampler.temperature",
        "${when:true,{_target_: diffsweep.configuration.loading.trained, _partial_: true, run: DIR, trust: [os]},1.0}",
    ),
    "a target that is computed": ("noise._target_", "${when:true,os.mkdir,diffsweep.diffusion.IndependentNoise}"),
    "arguments without names": ("noise._args_", ["DIR"]),
    "a node, once sizes are known": (
        "noise",
        "${when:${space.out_channels},{_target_: os.mkdir, path: DIR},"
        "{_target_: diffsweep.diffusion.IndependentNoise}}",
    ),
    "text that comes to an interpolation": (
        "sampler.temperature",
        "$${when:true,'{oc.create:{_target_: os.mkdir}}',0}",
    ),
}


@pytest.mark.parametrize("what", HIDDEN)
def test_what_is_hidden_from_the_check_is_not_built(finished, command, tmp_path, what):
    key, value = HIDDEN[what]
    shutil.copytree(finished, run := tmp_path / "run")
    saved, made = OmegaConf.load(run / "config.yaml"), tmp_path / "made"
    text = value[0] if isinstance(value, list) else value
    text = text.replace("DIR", str(made))
    OmegaConf.update(saved, key, [text] if isinstance(value, list) else text, force_add=True)
    OmegaConf.save(saved, run / "config.yaml")
    done = command("sample", f"run={run}", "num_samples=1")
    assert done.code == 2, done.out
    assert not made.exists()
