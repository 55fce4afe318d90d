"""``import.py`` makes runs of published weights that the other commands sample and finetune."""

import pickle
import re

import pytest
import torch
from public_networks import OpenAIUNet

import diffsweep
from diffsweep.errors import UserError
from diffsweep.interchange.published import read

SIZES = (
    *("backbone.channels=128", "backbone.channel_mult=[1,2]", "backbone.block=biggan", "backbone.num_heads=2"),
    "backbone.attention_resolutions=[]",
    *(
        "backbone.time_embedding=scale_shift",
        "backbone.attention_factors=[2]",
        "prediction.variance=learned_range",
        "objective=hybrid",
    ),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "a file.pt"
    torch.save(dict(OpenAIUNet(in_channels=1, out_channels=2).weights), path)
    return path


@pytest.fixture
def imported(command, file, fast, tmp_path):
    done = command("import", f"weights='{file}'", "form=guided_diffusion", f"output={tmp_path / 'run'}", *fast, *SIZES)
    assert done.code == 0, done.err
    return tmp_path / "run", done


@pytest.mark.slow  # seconds of training and sampling
def test_an_imported_run_has_the_public_network_and_can_be_sampled_and_finetuned(command, imported, checkpoint):
    run, done = imported
    (numbers,) = re.findall(r"form=guided_diffusion, ([\d,]+) parameters", done.out)
    public = OpenAIUNet(in_channels=1, out_channels=2)
    assert int(numbers.replace(",", "")) == sum(value.numel() for value in public.weights.values())
    assert re.search(r"finetune +python \S+train.py resume=", done.out)

    network, x, t = diffsweep.load(run).model.denoiser.backbone, torch.randn(2, 1, 8, 8), torch.tensor([5.0, 900.0])
    with torch.no_grad():
        torch.testing.assert_close(network(x, t), public(x, t), rtol=1e-4, atol=1e-4)

    done = command("sample", f"run={run}", "num_samples=2", "sampler=ddim", "sampler.steps=2")
    assert done.code == 0, done.err

    before = checkpoint(run)
    assert before["global_step"] == 0
    done = command("train", f"resume={run}", "trainer.max_steps=2", "optimizer.lr=0.0001")
    assert done.code == 0, done.err
    after = checkpoint(run)
    assert after["global_step"] == 2
    name = "denoiser.backbone.conv_in.weight"
    assert 0 < (after["state_dict"][name] - before["state_dict"][name]).abs().max() < 1e-3


@pytest.mark.slow
def test_a_run_is_made_once_and_only_of_weights_that_fit(command, imported, file, fast, tmp_path):
    run, _ = imported
    words = (f"weights='{file}'", "form=guided_diffusion", *fast, *SIZES)
    done = command("import", *words, f"output={run}")
    assert (done.code, "has a run already" in done.err) == (2, True)
    done = command("import", *words, f"output={tmp_path / 'other'}", "backbone.num_res_blocks=2")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "it lacks input_blocks.4.0" in done.err
    done = command("import", f"output={tmp_path / 'other'}", *fast)
    assert (done.code, "weights is missing" in done.err) == (2, True)
    assert not (tmp_path / "other").exists()


def test_needed_models_are_required_and_not_trained(command, file, fast, tmp_path):
    words = (
        f"weights='{file}'",
        "form=guided_diffusion",
        f"output={tmp_path / 'run'}",
        *fast,
        "model=classifier_guided",
    )
    done = command("import", *words, f"paths.output_dir={tmp_path}")
    assert done.code == 2
    assert "needs a trained model of model=noisy_classifier, which import.py does not train" in done.err
    assert not (tmp_path / "run").exists()


def test_a_run_uses_the_output_and_the_time_as_the_authors_do(command, file, fast, tmp_path):
    sizes = [word for word in SIZES if not word.startswith(("prediction", "objective"))]
    weights = OpenAIUNet(in_channels=1, out_channels=1).weights
    torch.save(dict(weights), tmp_path / "cm.pt")
    words = (f"weights={tmp_path / 'cm.pt'}", "form=consistency_models", f"output={tmp_path / 'run'}", *fast, *sizes)
    done = command("import", *words)
    assert done.code == 2
    assert "type prediction=edm prediction.time_scale=1000.0" in done.err
    assert not (tmp_path / "run").exists()
    done = command("import", *words, "prediction=edm", "prediction.time_scale=1000.0")
    assert done.code == 0, done.err


class Network:
    """An object whose class a file would import."""


def test_objects_in_files_are_refused_with_the_command_that_converts_them(tmp_path):
    pickled, saved = tmp_path / "edm.pkl", tmp_path / "model.ckpt"
    pickled.write_bytes(pickle.dumps({"ema": Network()}))
    torch.save({"state_dict": {"a": torch.ones(2)}, "callbacks": Network()}, saved)
    with pytest.raises(UserError, match=r"in a clone of its code .*pickle.load.* writes its tensors") as error:
        read(pickled)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"if you trust it, python -c '(.*)' writes its tensors into") as error:
        read(saved)
    code = re.search(r"python -c '(.*)' writes", str(error.value))[1].replace("'\"'\"'", "'")
    new = tmp_path / "tensors.pt"
    exec(code.replace("model_tensors.pt", str(new)))
    assert torch.equal(read(new)["state_dict"]["a"], torch.ones(2))


def test_files_that_are_absent_or_damaged_are_refused_in_a_line(tmp_path):
    with pytest.raises(UserError, match=r"no such file; download it first"):
        read(tmp_path / "none.pt")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(UserError, match=r"torn.pt cannot be read: ") as error:
        read(tmp_path / "torn.pt")
    assert "\n" not in str(error.value)
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"torn.safetensors cannot be read: "):
        read(tmp_path / "torn.safetensors")
