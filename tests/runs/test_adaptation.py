"""Runs that start from another: their options and weights, what trains, what checkpoints hold, and wrong bases."""

import pytest
import torch
from omegaconf import OmegaConf

from diffsweep.adaptation import has_all_weights
from diffsweep.callbacks import averaged_weights
from diffsweep.configuration.build import build_model
from diffsweep.configuration.compose import compose
from diffsweep.configuration.loading import load_model, trained
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.saved import load_config
from diffsweep.errors import UserError
from diffsweep.layers import weights_hash
from diffsweep.runs.training import train

MIDDLE = "adaptation.train=[denoiser.backbone.middle.*]"


@pytest.fixture(scope="module")
def start(finished):
    """``cfg = start(directory, *overrides)`` returns the configuration of a new run that starts from a finished one."""

    def start(directory, *overrides, run=finished):
        places = (f"hydra.run.dir={directory}", f"paths.output_dir={directory.parent}", "logger=csv")
        return compose("train", [f"from={run}", *places, "trainer.max_steps=2", *overrides])

    return start


@pytest.fixture(scope="module")
def adapted(start, tmp_path_factory):
    """The directory of a run that trained the middle of the finished run's network."""
    directory = tmp_path_factory.mktemp("adapted") / "middle"
    train(start(directory, MIDDLE))
    return directory


def checkpoint_of(directory):
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_new_run_has_the_options_and_the_averaged_weights_of_its_base(start, finished, tmp_path):
    cfg = start(tmp_path / "new", "optimizer.lr=0.5")
    preflight(cfg)
    base = load_config(finished)
    assert cfg.choices.schedule == "linear"
    assert cfg.choices.adaptation == "full"
    assert (cfg.schedule.num_steps, cfg.optimizer.lr, cfg.lr_scheduler) == (500, 0.5, base.lr_scheduler)
    assert cfg.paths.run_dir == str(tmp_path / "new")
    averaged = averaged_weights(checkpoint_of(finished))
    model = build_model(cfg)
    assert all(torch.equal(weight, averaged[name]) for name, weight in model.state_dict().items())
    assert len(model.trained_parameters()) == len(list(model.parameters()))


def test_frozen_weights_stay_and_are_in_no_checkpoint(adapted, finished):
    """What trains has changed, what is frozen is the base's to the bit, and the file has the trained weights alone."""
    saved, base = checkpoint_of(adapted)["state_dict"], trained(str(finished)).state_dict()
    model = load_model(load_config(adapted)).state_dict()
    changed = {name for name, weight in model.items() if not torch.equal(weight, base[name])}
    assert changed
    assert changed <= {name for name in base if name.startswith("denoiser.backbone.middle.")}
    assert saved.keys() == {name for name in base if ".middle." in name}
    assert load_config(adapted).adaptation.weights == weights_hash(trained(str(finished)))


def test_an_adapted_run_resumes_exactly(start, resume, adapted, tmp_path):
    train(start(tmp_path / "half", MIDDLE, "trainer.max_steps=1"))
    train(resume(tmp_path / "half", "trainer.max_steps=2"))
    one, two = checkpoint_of(tmp_path / "half"), checkpoint_of(adapted)
    for part in ("state_dict", ("ema", "weights")):
        old, new = ((c[part] if isinstance(part, str) else c[part[0]][part[1]]) for c in (one, two))
        assert old.keys() == new.keys()
        assert all(torch.equal(weight, new[name]) for name, weight in old.items())


def test_a_further_run_starts_from_an_adapted_one(start, adapted, tmp_path):
    cfg = start(tmp_path / "further", run=adapted)
    model, before = build_model(cfg), load_model(load_config(adapted))
    assert all(torch.equal(weight, before.state_dict()[name]) for name, weight in model.state_dict().items())


def test_a_run_with_all_weights_is_loaded_without_its_base(start, finished, tmp_path):
    train(start(tmp_path / "whole", MIDDLE, "adaptation.whole=true"))
    cfg = load_config(tmp_path / "whole")
    assert checkpoint_of(tmp_path / "whole")["state_dict"].keys() == trained(str(finished)).state_dict().keys()
    cfg.adaptation.run = str(tmp_path / "gone")
    preflight(compose("sample", [f"run={tmp_path / 'whole'}", f"adaptation.run={tmp_path / 'gone'}"]))
    load_model(cfg)


@pytest.mark.parametrize(
    "settings, whole",
    [
        ({}, True),
        ({"base": 1, "train": ["*"]}, True),
        ({"base": 1, "train": []}, False),
        ({"base": 1, "train": [], "whole": True}, True),
        ({"base": 1}, False),
    ],
)
def test_the_settings_state_whether_checkpoints_have_all_weights(settings, whole):
    assert has_all_weights(OmegaConf.create(settings)) is whole


@pytest.mark.faults
@pytest.mark.parametrize(
    "words, message",
    [
        (["adaptation.train=[*.midle.*]"], r"adaptation.train: \*.midle.\* fits none of \d+ names, such as denoiser"),
        (["adaptation=frozen"], "leaves no weight that trains"),
        (["backbone.channels=16"], r"weight denoiser.backbone.\S+ is [\dx ]+, and that of this model"),
        (["model=classifier", "conditioning=class"], r"its weight \S+ is none of this model"),
    ],
)
def test_an_adaptation_that_does_not_fit_is_refused_by_rule(start, tmp_path, words, message):
    with pytest.raises(UserError, match=message + r".*\[rule the_adaptation_fits_its_base\]"):
        preflight(start(tmp_path / "new", *words))
    assert not (tmp_path / "new").exists()


@pytest.mark.faults
def test_a_base_that_is_gone_or_another_is_refused(adapted, start, tmp_path):
    gone = compose("sample", [f"run={adapted}", f"adaptation.run={tmp_path}"])
    with pytest.raises(UserError, match=r"adaptation.run=\S+ \S+ is no run.*Give the directory of a trained run"):
        preflight(gone)
    train(start(tmp_path / "other"))
    cfg = load_config(adapted)
    cfg.adaptation.run = str(tmp_path / "other")
    with pytest.raises(UserError, match=r"has other weights \(\w{12}\) than the run was adapted from \(\w{12}\)"):
        load_model(cfg)


@pytest.mark.faults
@pytest.mark.parametrize(
    "words, message",
    [
        (lambda run: [f"from={run}", f"resume={run}"], "choose two runs"),
        (lambda run: [f"from={run}x"], "is no run: no such folder"),
    ],
)
def test_from_takes_one_run_that_exists(finished, words, message):
    with pytest.raises(UserError, match=message):
        compose("train", words(finished))


def test_training_without_a_base_is_refused(configure, tmp_path):
    with pytest.raises(UserError, match=r"adaptation.run is missing: give the directory of a trained run"):
        preflight(configure(tmp_path / "new", "adaptation=full"))
