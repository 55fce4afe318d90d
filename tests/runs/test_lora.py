"""Runs with adaptation=lora: they start as their base, keep it, resume exactly, and further runs start from them."""

import pytest
import torch

from diffsweep.callbacks import averaged_weights
from diffsweep.configuration.build import build_model
from diffsweep.configuration.compose import compose
from diffsweep.configuration.loading import load_model, trained
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.saved import load_config
from diffsweep.errors import UserError
from diffsweep.runs.training import train

LORA = ("adaptation=lora", "adaptation.targets=[denoiser.backbone.*.conv_*]", "adaptation.alpha=8", "optimizer.lr=0.05")


@pytest.fixture(scope="module")
def start(finished):
    """``cfg = start(directory, *overrides)`` returns the configuration of a run with LoRA from the finished run."""

    def start(directory, *overrides, run=finished, lora=LORA):
        places = (f"hydra.run.dir={directory}", f"paths.output_dir={directory.parent}", "logger=csv")
        return compose("train", [f"from={run}", *places, "trainer.max_steps=2", *lora, *overrides])

    return start


@pytest.fixture(scope="module")
def adapted(start, tmp_path_factory):
    """The directory of a run with LoRA."""
    directory = tmp_path_factory.mktemp("adapted") / "lora"
    train(start(directory, "adaptation.dropout=0.1"))
    return directory


def checkpoint_of(directory):
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)


def noised(model):
    """Return the network's output for fixed inputs."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, *model.autoencoder.shape, generator=generator)
    with torch.no_grad():
        return model.denoiser.backbone(x, torch.tensor([10.0, 400.0]), None)


def test_a_model_with_lora_starts_as_its_base_to_the_bit(start, finished, tmp_path):
    model = build_model(start(tmp_path / "new")).eval()
    assert torch.equal(noised(model), noised(trained(str(finished))))
    assert all(".lora_" in name for name, weight in model.named_parameters() if weight.requires_grad)


def test_only_the_updates_train_and_are_in_the_checkpoint(adapted, finished):
    saved, base = checkpoint_of(adapted), trained(str(finished))
    assert saved["state_dict"]
    assert all(".lora_" in name for name in (*saved["state_dict"], *saved["ema"]["weights"]))
    model = load_model(load_config(adapted))
    own = {name.replace(".base_layer.", "."): weight for name, weight in model.state_dict().items()}
    assert all(torch.equal(weight, own[name]) for name, weight in base.state_dict().items())
    assert not torch.equal(noised(model), noised(base))


@pytest.mark.slow
def test_a_run_with_lora_resumes_exactly(start, resume, adapted, tmp_path):
    train(start(tmp_path / "half", "adaptation.dropout=0.1", "trainer.max_steps=1"))
    train(resume(tmp_path / "half", "trainer.max_steps=2"))
    one, two = (averaged_weights(checkpoint_of(each)) for each in (tmp_path / "half", adapted))
    assert one.keys() == two.keys()
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())


def test_a_further_run_starts_from_the_merged_weights(start, adapted, tmp_path):
    cfg = start(tmp_path / "further", run=adapted, lora=())
    merged, model = build_model(cfg).eval(), load_model(load_config(adapted))
    assert merged.adaptation.base.adaptation.adapter(model).updates
    torch.testing.assert_close(noised(merged), noised(model), rtol=0, atol=1e-5)


@pytest.mark.faults
def test_targets_that_fit_no_layer_are_refused_by_rule(start, tmp_path):
    words = r"adaptation.targets: \*.to_qvk fits none of \d+ names, such as denoiser.*\[rule the_adaptation_fits"
    with pytest.raises(UserError, match=words):
        preflight(start(tmp_path / "new", "adaptation.targets=[*.to_qvk]"))
