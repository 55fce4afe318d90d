"""Adapters at sampling: sample.py adapters=[A:0.7,B:0.5], their files in both forms, and adapters of other bases."""

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffsweep.adaptation.lora import inject
from diffsweep.callbacks import averaged_weights
from diffsweep.configuration.adapters import add_adapters, parsed
from diffsweep.configuration.compose import compose
from diffsweep.configuration.loading import load_model, trained
from diffsweep.configuration.saved import load_config
from diffsweep.errors import UserError
from diffsweep.interchange.adapter_files import HASH, read_adapter
from diffsweep.runs.exporting import export
from diffsweep.runs.training import train

TEXT_ENCODER = "conditioning.encoder.blocks.0.attention.to_*"
TEXTS = ["a red circle", "a small blue square"]
TARGETS = ("denoiser.*.conv_in", "denoiser.*.to_*", TEXT_ENCODER)


@pytest.fixture(scope="module")
def runs(finished_text, tmp_path_factory):
    """The directories of two runs of LoRA with the same base, of other ranks and seeds."""
    directory = tmp_path_factory.mktemp("adapters")
    for name, words in (("a", ("adaptation.rank=2", "seed=1")), ("b", ("adaptation.alpha=6", "seed=2"))):
        places = (f"hydra.run.dir={directory / name}", f"paths.output_dir={directory}", "logger=csv", "metrics=none")
        targets = f"adaptation.targets=[{','.join(TARGETS)}]"
        few = ("adaptation=lora", targets, "optimizer.lr=0.05", "trainer.max_steps=1")
        train(compose("train", [f"from={finished_text}", *places, *few, *words]))
    return directory / "a", directory / "b"


@pytest.fixture(scope="module")
def base(finished_text):
    """The model of the runs' base."""
    return load_model(load_config(finished_text))


@pytest.fixture(scope="module")
def run_of_a(runs):
    """The model of the first run."""
    return load_model(load_config(runs[0]))


@pytest.fixture(scope="module")
def added(base):
    """``model = added(*words)`` returns the base with adapters, as ``adapters=[...]`` adds them."""

    def added(*words):
        model = copy.deepcopy(base)
        add_adapters(model, words, trained)
        return model

    return added


@pytest.fixture(scope="module")
def files(runs, tmp_path_factory):
    """The folders that export.py writes of the first run, by the name of the form."""
    folder = tmp_path_factory.mktemp("files")
    for form in ("lora_peft", "lora_kohya"):
        export(compose("export", [f"run={runs[0]}", f"format={form}", f"output={folder / form}"]))
    return folder


def test_an_adapter_of_weight_1_is_its_run_and_of_weight_0_the_base(finished_text, runs, base, added):
    words = [f"run={finished_text}", f"adapters=[{runs[0]}]"]
    models = load_model(compose("sample", words)), load_model(load_config(runs[0])), copy.deepcopy(base)
    x, t, last = torch.randn(2, 3, 16, 16), torch.tensor([0.2, 0.8]), torch.randn(3, 8, 3, 3)
    outputs = []
    for model in models:
        model.denoiser.backbone.conv_out.weight.copy_(last)  # it is near 0 after the few steps of the base
        outputs.append(model.denoiser.backbone(x, t, model.conditioning({"caption": TEXTS})))
    one, two, plain = outputs
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
    assert not torch.allclose(one, plain, rtol=0, atol=1e-3)
    same = added(f"{runs[0]}:0", f"{runs[1]}:0.0").state_dict()
    assert all(torch.equal(weight, same[name]) for name, weight in base.state_dict().items())


def test_two_adapters_add_up_with_their_weights(runs, base, added):
    """W + 0.7 A + 0.5 B, where each sum W + A is that of the run that has trained A."""
    both, base = added(f"{runs[0]}:0.7", f"{runs[1]}:0.5").state_dict(), base.state_dict()
    a, b = (added(str(run)).state_dict() for run in runs)
    for name, weight in base.items():
        expected = weight + 0.7 * (a[name] - weight) + 0.5 * (b[name] - weight)
        torch.testing.assert_close(both[name], expected, rtol=0, atol=1e-5)
    changed = {name for name, weight in base.items() if not torch.equal(both[name], weight)}
    assert any(name.startswith("conditioning.encoder") for name in changed)
    assert "denoiser.backbone.conv_in.weight" in changed


def test_adapters_are_added_to_a_run_with_another_adapter_of_the_same_base(runs, run_of_a, files, added):
    """A and B / 2 are the same weights, whether A was trained in the model or is added; A - A is 0."""
    expected = added(str(runs[0]), f"{runs[1]}:0.5").state_dict()
    model = copy.deepcopy(run_of_a)
    add_adapters(model, [f"{runs[1]}:0.5", f"{files / 'lora_kohya'}:1", f"{files / 'lora_peft'}:-1"], trained)
    plain = model.adaptation.plain(model)
    assert plain.keys() == expected.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)


def test_a_merged_run_is_a_plain_model_of_the_same_weights(run_of_a):
    merged = copy.deepcopy(run_of_a)
    plain = run_of_a.adaptation.plain(run_of_a)
    merged.adaptation.merge(merged)
    assert merged.state_dict().keys() == plain.keys()
    assert all(torch.equal(weight, plain[name]) for name, weight in merged.state_dict().items())


@pytest.mark.parametrize("form", ["lora_peft", "lora_kohya"])
def test_files_are_read_back_as_they_were(runs, run_of_a, files, added, form):
    adapter = run_of_a.adaptation.adapter(run_of_a)
    read = read_adapter(files / form, adapter.updates)
    assert read.base == adapter.base
    assert read.updates.keys() == adapter.updates.keys()
    for name, update in adapter.updates.items():
        assert torch.equal(read.updates[name].down, update.down)
        torch.testing.assert_close(read.updates[name].delta(), update.delta(), rtol=0, atol=1e-6)
    direct, through = (added(f"{path}:0.5").state_dict() for path in (runs[0], files / form))
    assert all(torch.equal(weight, through[name]) for name, weight in direct.items())


def test_peft_itself_loads_the_folder_and_the_state_dict(runs, run_of_a, base, files, checkpoint):
    from peft import PeftModel, set_peft_model_state_dict

    expected = averaged_weights(checkpoint(runs[0]))
    wrapped = PeftModel.from_pretrained(copy.deepcopy(base), files / "lora_peft")
    own = {name.removeprefix("base_model.model."): weight for name, weight in wrapped.state_dict().items()}
    assert all(torch.equal(own[name], weight) for name, weight in expected.items())
    merged = wrapped.merge_and_unload().state_dict()
    for name, weight in run_of_a.adaptation.plain(run_of_a).items():
        torch.testing.assert_close(merged[name], weight, rtol=0, atol=1e-6)

    plain = copy.deepcopy(base)
    inject(plain, list(run_of_a.adaptation.adapter(run_of_a).updates), 2, 2.0)
    state = load_file(files / "lora_peft" / "adapter_model.safetensors")
    result = set_peft_model_state_dict(plain, {name.removeprefix("base_model.model."): w for name, w in state.items()})
    assert not result.unexpected_keys
    assert all(torch.equal(plain.state_dict()[name], weight) for name, weight in expected.items())


def test_keys_of_kohyas_form_are_flat_names_with_an_alpha_each(files):
    state = load_file(files / "lora_kohya" / "lora.safetensors")
    assert {name.rpartition(".")[2] for name in state} == {"weight", "alpha"}
    assert state["lora_unet_conv_in.lora_down.weight"].shape == (2, 3, 3, 3)
    assert state["lora_unet_conv_in.alpha"] == 2
    assert "lora_te_encoder_blocks_0_attention_to_q.lora_up.weight" in state


def test_an_adapter_of_peft_on_the_network_alone_is_read(files, tmp_path):
    """Names without the network's own, no hash, and an alpha by the square root of the rank."""
    key = "denoiser.backbone.conv_in"
    state = load_file(files / "lora_peft" / "adapter_model.safetensors")
    mine = {f"base_model.model.conv_in.{end}": state[f"base_model.model.{key}.{end}"] for end in ENDS}
    save_file(mine, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "lora_alpha": 8, "r": 2, "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    read = read_adapter(tmp_path, [key])
    assert read.base is None
    torch.testing.assert_close(read.updates[key].alpha / 2, 8 / 2**0.5)


ENDS = ("lora_A.weight", "lora_B.weight")


@pytest.mark.parametrize(
    "word, path, weight",
    [
        ("a/b", "a/b", 1.0),
        ("a/b:0.7", "a/b", 0.7),
        ("a:b/c:-1", "a:b/c", -1.0),
        ("a:b", "a:b", 1.0),
        ("a:1e-1", "a", 0.1),
    ],
)
def test_a_word_is_a_path_and_its_weight(word, path, weight):
    assert (str(parsed(word)[0]), parsed(word)[1]) == (path, weight)


@pytest.mark.faults
def test_an_adapter_of_another_base_is_one_line(finished, runs, files, command):
    """By the hash of its base; and where a file has none, by the names and sizes of its layers."""
    for path in (runs[0], files / "lora_peft"):
        done = command("sample", f"run={finished}", f"adapters=[{path}]", "num_samples=1")
        assert done.code == 2
        assert "is of another base" in done.err
        assert done.err.count("\n") == 1


@pytest.mark.faults
def test_a_hash_alone_refuses_weights_that_would_fit(added, files, tmp_path):
    state = load_file(files / "lora_kohya" / "lora.safetensors")
    save_file(state, tmp_path / "other.safetensors", metadata={HASH: "0" * 64})
    with pytest.raises(UserError, match=r"is of another base, of weights 000000000000, than this run, of \w{12}; give"):
        added(str(tmp_path / "other.safetensors"))


def without_config(folder):
    (folder / "adapter_config.json").unlink()


def of_dora(folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))


def without_a_part(folder):
    file = folder / "adapter_model.safetensors"
    state = load_file(file)
    save_file({name: weight for name, weight in state.items() if "lora_B" not in name}, file)


def with_another_entry(folder):
    save_file({"conv_in.weight": torch.zeros(3)}, folder / "adapter_model.safetensors")


def damaged(folder):
    (folder / "adapter_model.safetensors").write_bytes(b"no tensors")


def empty(folder):
    (folder / "adapter_model.safetensors").unlink()


@pytest.mark.faults
@pytest.mark.parametrize(
    "change, message",
    [
        (without_config, "has the alpha of the updates"),
        (of_dora, "use_dora"),
        (without_a_part, "has but one of its two weights"),
        (with_another_entry, "its entry conv_in.weight is none of an update"),
        (damaged, "cannot be read"),
        (empty, "has no adapter: give a run of adaptation=lora"),
    ],
)
def test_a_file_that_is_no_adapter_is_one_line(run_of_a, files, tmp_path, change, message):
    folder = shutil.copytree(files / "lora_peft", tmp_path / "copy")
    change(folder)
    with pytest.raises(UserError, match=message) as error:
        read_adapter(folder, run_of_a.adaptation.adapter(run_of_a).updates)
    assert "\n" not in str(error.value)


@pytest.mark.faults
def test_runs_that_are_no_adapters_and_weights_that_are_no_numbers_are_refused(finished_text, runs, added, tmp_path):
    with pytest.raises(UserError, match="is no run of adaptation=lora or controlnet"):
        added(str(finished_text))
    with pytest.raises(UserError, match=r"adapters: the weight of a is nan; give a number, such as a:0.7"):
        added("a:nan")
    with pytest.raises(UserError, match=r"adapters: \S+gone does not exist; give a run of adaptation=lora or"):
        added(str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"^adapters is a list: write adapters=\[...\]"):
        compose("sample", [f"run={finished_text}", f"adapters={runs[0]}"])
    words = [f"run={finished_text}", f"output={tmp_path / 'x'}", f"adapters=[{runs[0]}]"]
    with pytest.raises(UserError, match="leave weights=raw out"):
        export(compose("export", [*words, "weights=raw"]))
    with pytest.raises(UserError, match="the run has no updates of low rank; give"):
        export(compose("export", [*words, "format=lora_peft"]))


@pytest.mark.slow
def test_a_run_of_lora_is_exported_merged_to_other_formats(runs, added, tmp_path):
    export(compose("export", [f"run={runs[0]}", "format=safetensors", f"output={tmp_path / 'm'}"]))
    state, expected = load_file(tmp_path / "m" / "model.safetensors"), added(str(runs[0])).state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in state.items())


@pytest.mark.slow
def test_a_run_with_all_weights_is_loaded_without_its_base_and_is_an_adapter_too(finished_text, base, added, tmp_path):
    places = (f"hydra.run.dir={tmp_path / 'whole'}", f"paths.output_dir={tmp_path}", "logger=csv", "metrics=none")
    words = ("adaptation=lora", f"adaptation.targets=[{TEXT_ENCODER}]", "adaptation.whole=true", "trainer.max_steps=1")
    train(compose("train", [f"from={finished_text}", *places, *words, "optimizer.lr=0.05"]))
    cfg = load_config(tmp_path / "whole")
    cfg.adaptation.run = str(tmp_path / "gone")
    model = load_model(cfg)
    plain, sum_of_both = model.adaptation.plain(model), added(str(tmp_path / "whole")).state_dict()
    assert not all(torch.equal(weight, plain[name]) for name, weight in base.state_dict().items())
    assert all(torch.equal(weight, plain[name]) for name, weight in sum_of_both.items())


@pytest.mark.slow
@pytest.mark.faults
def test_a_run_that_has_trained_more_than_updates_is_no_adapter(finished_text, added, tmp_path):
    places = (f"hydra.run.dir={tmp_path / 'more'}", f"paths.output_dir={tmp_path}", "logger=csv", "metrics=none")
    words = (
        "adaptation=lora",
        f"adaptation.targets=[{TEXT_ENCODER}]",
        "adaptation.train=[denoiser.backbone.conv_in.*]",
    )
    train(compose("train", [f"from={finished_text}", *places, *words, "trainer.max_steps=1", "optimizer.lr=0.05"]))
    with pytest.raises(
        UserError, match=r"has trained denoiser.backbone.conv_in.\w+ too, so it is more than an adapter"
    ):
        added(str(tmp_path / "more"))
