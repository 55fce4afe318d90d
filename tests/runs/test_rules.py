"""Rules and the requirements that options declare: each is found, refuses, and names what to type instead."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from parts import parts_of

from diffsweep.capabilities import CAPABILITIES, Declared, declared_by
from diffsweep.configuration import rules
from diffsweep.configuration.build import build
from diffsweep.configuration.check import locate
from diffsweep.configuration.conf import defaults, options, targets
from diffsweep.configuration.declarations import declared, requirements
from diffsweep.configuration.preflight import parts_of as built_parts_of
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.rules.stages import latents_are_standardised_by_this_data
from diffsweep.configuration.stage_nodes import Stage
from diffsweep.discovery import import_all
from diffsweep.errors import UserError

import_all(rules)  # else a test that replaces them would keep those which are imported meanwhile

FREE = ("model=classifier_free",)
WRONG = [  # what is typed, the rule that it breaks, and what to type instead; see test_bad_input for others
    ((*FREE, "guidance=composed", "backbone.num_classes=null"), "guided_network_accepts_the_condition", "classifier"),
    (
        ("likelihood=bound", "likelihood.steps=5000"),
        "likelihood_has_a_chain_of_the_schedules_times",
        "use likelihood.steps=1000 or fewer",
    ),
    (
        ("callbacks.ema.every=50", "trainer.max_steps=20"),
        "the_average_is_updated",
        "use callbacks.ema.every=1",
    ),
    (("execution=compiled_blocks",), "required_capabilities_are_provided", "backbone=dit, uvit"),
    (
        ("trainer.precision=16-mixed", "optimizer.fused=true", "trainer.gradient_clip_val=1"),
        "scaled_gradients_are_not_clipped_when_fused",
        "is of GPUs, and its gradients cannot be clipped with a fused optimizer; use trainer.precision=bf16-mixed",
    ),
    (
        ("trainer.precision=transformer-engine",),
        "trainer_precision_is_known",
        "trainer.precision=transformer-engine: no such precision; it is one of 32-true, bf16-mixed",
    ),
    (("model=autoencoder_kl", "execution=compiled"), "compiled_models_have_networks_to_compile", "use execution=eager"),
    (("objective=ssm", "execution=compiled"), "compiled_networks_have_first_derivatives_alone", "use execution=eager"),
    (("feature_cache=uniform", "sampler=ode"), "required_capabilities_are_provided", "sampler=ancestral"),
    (("feature_cache=uniform", "model=noisy_classifier"), "required_capabilities_are_provided", "feature_cache=none"),
    (
        (
            "feature_cache=uniform",
            "model=video",
            "noise=shared",
            "prediction=eps",
            "backbone=base_and_residual",
            "metrics=none",
        ),
        "provided_capabilities_are_supported",
        "use backbone=dit3d, unet3d, or feature_cache=none",
    ),
    (
        ("feature_cache=uniform", "feature_cache.branch=5"),
        "cached_features_leave_something_to_compute_less",
        "use feature_cache.branch=4 or less",
    ),
    (
        ("feature_cache=uniform", "guidance=reconstruction"),
        "cached_features_are_not_differentiated",
        "guidance=repaint",
    ),
    (("trainer=fsdp", "trainer.devices=1"), "sharded_weights_have_several_devices", "use trainer=auto"),
    (("trainer=fsdp", "model=autoencoder_kl"), "sharded_models_train_their_networks_alone", "use trainer=ddp"),
    (("trainer=fsdp", "model=vdm"), "sharded_models_train_their_networks_alone", "schedule=learned is learned"),
    (("trainer=fsdp", "model=consistency"), "sharded_models_train_their_networks_alone", "use trainer=ddp"),
    (("trainer=fsdp", "execution=compiled"), "sharded_networks_are_not_compiled", "use execution=eager"),
    (("trainer=fsdp", "objective=ssm"), "sharded_networks_have_first_derivatives_alone", "use trainer=ddp"),
    (
        ("trainer=fsdp", "trainer.precision=16-mixed", "optimizer.fused=false"),
        "sharded_gradients_are_not_scaled",
        "use trainer.precision=bf16-mixed",
    ),
    (("trainer=fsdp", "callbacks=post_hoc"), "sharded_weights_have_one_average", "use trainer=ddp"),
    (
        ("model=video", "conditioning=image", "metrics=none"),
        "degraded_images_are_no_clips",
        "use conditioning=none, and task=upscale or extend",
    ),
]


@pytest.mark.parametrize(("typed", "name", "fix"), WRONG, ids=[f"{name} {typed}" for typed, name, _ in WRONG])
def test_a_rule_refuses_with_what_to_type(compose, typed, name, fix):
    with pytest.raises(UserError) as refused:
        preflight(compose(*typed))
    message = str(refused.value)
    assert message.endswith(f"[rule {name}]")
    assert fix in message
    assert "\n" not in message


def test_a_first_stage_of_other_data_is_a_note():
    """Its latents are standardised by its own data."""
    cfg = OmegaConf.create({"choices": {"dataset": "shapes"}})
    data = SimpleNamespace(fingerprint="ours", provides=frozenset())

    def noted(inherit, fingerprint):
        node = OmegaConf.create({"inherit": inherit, "run": "somewhere", "train": []})
        stage = Stage(node, OmegaConf.create({"choices": {"dataset": "digits"}}), fingerprint)
        return latents_are_standardised_by_this_data(cfg, parts_of(dataset=data, stages={"autoencoder.model": stage}))

    assert "was trained on dataset=digits (theirs), and this run has dataset=shapes" in noted(["dataset"], "theirs")
    assert noted(["dataset"], "ours") is noted([], "theirs") is None


def test_every_rule_has_a_test():
    tests = "\n".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert len(rules.RULES) > 20
    assert [name for name in {**rules.RULES, **rules.NOTES} if name not in tests] == []


@pytest.mark.parametrize("group", sorted(defaults()))
def test_what_is_read_from_the_source_is_what_the_class_declares(group):
    """Properties are left out: they have a value on an object alone."""
    for option in options(group):
        found = [declared_by(locate(target)) for target in targets(group, option) if target.startswith("diffsweep.")]
        for field, read in declared(group, option)._asdict().items():
            of_classes = [getattr(one, field) for one in found]
            assert read == frozenset().union(*(names for names in of_classes if isinstance(names, frozenset)))
            assert read <= CAPABILITIES.keys()


def test_help_lists_options_that_go_only_with_others():
    lines = requirements()
    assert any(
        line.startswith("objective=hybrid; time_sampling=importance only with schedule=cosine") for line in lines
    )
    assert any(line.startswith("schedule=learned only with objective=vlb") for line in lines)
    assert len(lines) < 40


RULE = """
from diffsweep.configuration.rules import BuiltParts, rule
from diffsweep.diffusion import Simple


class Ours(Simple):
    requires = frozenset({{"{required}"}})


@rule
def ten_steps_are_enough(cfg, parts: BuiltParts):
    if parts.sampler.steps > 10:
        return f"sampler.steps={{parts.sampler.steps}} are too many; use sampler.steps=10"
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """``package(required)``: a user's own file with a rule in it, and an objective that requires a capability."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(rules.base, "RULES", dict(rules.RULES))

    def package(required):
        (tmp_path / "rules_for_tests.py").write_text(RULE.format(required=required))
        return "rules_for_tests"

    yield package
    sys.modules.pop("rules_for_tests", None)


def test_a_trusted_package_has_rules_and_requirements_of_its_own(compose, package):
    name = package("rate")
    with pytest.raises(UserError, match=r"use sampler.steps=10 \[rule ten_steps_are_enough\]"):
        preflight(compose(f"trust=[{name}]", "sampler.steps=11"))
    preflight(compose("sampler.steps=11"))  # a command that does not trust it has no such rule
    ours = (f"trust=[{name}]", "sampler.steps=4", f"objective._target_={name}.Ours")
    with pytest.raises(
        UserError, match=r"objective=simple requires the time derivative.*, and schedule=cosine does not"
    ):
        preflight(compose(*ours))
    preflight(compose(*ours, "schedule=vp"))


def test_an_unknown_requirement_is_answered_with_the_nearest(compose, package):
    name = package("gridd")
    with pytest.raises(UserError, match="a part declares gridd: no such capability, did you mean grid"):
        preflight(compose(f"trust=[{name}]", "sampler.steps=4", f"objective._target_={name}.Ours"))


def test_a_trusted_package_that_cannot_be_imported_is_refused(compose):
    with pytest.raises(UserError, match=r"trust=\[nowhere_at_all\]: it cannot be imported: ModuleNotFoundError"):
        preflight(compose("trust=[nowhere_at_all]"))


def test_declarations_that_depend_on_settings_are_of_the_part(compose):
    for overrides, group, expected in (
        (("sampler.clip=none",), "sampler", Declared(provides=frozenset({"fixed_steps"}))),
        ((), "sampler", Declared(requires=frozenset({"range"}), provides=frozenset({"fixed_steps"}))),
        (
            ("prediction.variance=learned_range",),
            "prediction",
            Declared(provides=frozenset({"eps_output", "learned_variance"})),
        ),
        ((), "autoencoder", Declared(provides=frozenset({"range"}))),
        (("dataset=moving_digits",), "autoencoder", Declared(provides=frozenset({"range", "clips"}))),
        (("conditioning=class",), "conditioning", Declared(provides=frozenset({"condition", "num_classes"}))),
        (FREE, "conditioning", Declared(provides=frozenset({"condition", "num_classes", "null_condition"}))),
    ):
        assert declared_by(build(compose(*overrides), group)) == expected


def test_parts_are_found_by_group(compose):
    parts = built_parts_of(compose(*FREE))
    groups = [group for group, _ in parts]
    assert groups.count("guidance") == 1
    assert groups.count("callbacks") == 6
    assert parts.of("metrics") == [parts.metrics]
