"""A training step without memory is tried again with half the batch, and the run is the one that types it so."""

from types import SimpleNamespace

import pytest
import torch
from composing import composed
from omegaconf import OmegaConf

from diffsweep.layers import release
from diffsweep.models import DiffusionModel
from diffsweep.runs.memory import MemoryOfSteps, ShortOfMemory, why_not_halved
from diffsweep.runs.training import train


@pytest.fixture
def limited(monkeypatch):
    """``positions = limited(most, begin=0)``: from step ``begin`` on a step takes so many samples, or has no memory.

    ``positions`` are those of each batch that was trained on, by the number of the step from 0.
    """
    original, found = DiffusionModel.training_step, []

    def limited(most, begin=0):
        def training_step(self, batch, batch_idx):
            if len(batch["x"]) > most and self.global_step >= begin:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            found.append((self.global_step, batch["position"].tolist()))
            return original(self, batch, batch_idx)

        monkeypatch.setattr(DiffusionModel, "training_step", training_step)
        return found

    return limited


def saved(directory):
    return OmegaConf.load(directory / "config.yaml")


def equal(these, those):
    return all(torch.equal(these["state_dict"][name], those["state_dict"][name]) for name in those["state_dict"])


@pytest.mark.slow
def test_the_first_step_is_tried_again_with_halves(tmp_path, configure, limited, checkpoint, capsys):
    """The batch of 32 becomes 4 of 8, in the same order; the run is that of a user who types this."""
    positions = limited(8)
    train(configure(tmp_path / "run", "trainer.max_steps=2"))
    assert [(step, place) for step, row in positions for place in row] == [(k // 32, k) for k in range(64)]
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert len(warnings) == 2
    assert "in step 1 with dataset.batch_size=16; goes on with dataset.batch_size=8 " in warnings[1]
    assert "trainer.accumulate_grad_batches=4" in warnings[1]
    cfg = saved(tmp_path / "run")
    assert (cfg.dataset.batch_size, cfg.trainer.accumulate_grad_batches, cfg.resume_from) == (8, 4, None)
    halves = ("dataset.batch_size=8", "trainer.accumulate_grad_batches=4")
    train(configure(tmp_path / "typed", "trainer.max_steps=2", *halves))
    assert equal(checkpoint(tmp_path / "run"), checkpoint(tmp_path / "typed"))


@pytest.mark.slow
def test_a_later_step_goes_on_from_the_last_checkpoint(tmp_path, configure, limited, history):
    """Steps 0 to 2 have memory; step 3 goes on from the checkpoint of two steps, with every position once."""
    positions = limited(16, begin=3)
    train(configure(tmp_path / "run", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1"))
    after = positions[3:]
    assert [step for step, _ in positions[:3]] == [0, 1, 2]
    assert [(step, place) for step, row in after for place in row] == [(k // 32, k) for k in range(64, 128)]
    assert saved(tmp_path / "run").dataset.batch_size == 16
    assert "dataset.batch_size" in (tmp_path / "run" / "changes.jsonl").read_text()
    assert [row["step"] for row in history(tmp_path / "run")] == ["1", "2", "3", "4"]


def test_an_error_names_what_to_type(command, fast, limited):
    limited(8)
    done = command("train", *fast, "halve_batch=false", "hydra.run.dir=run")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith(
        "error: out of memory on the device in training step 1 with dataset.batch_size=32, which is "
    )
    for word in (
        "halve_batch=false",
        "dataset.batch_size=16 trainer.accumulate_grad_batches=2",
        "precision=bf16-mixed",
    ):
        assert word in line
    assert "backbone.checkpointing=true" in line


@pytest.mark.parametrize("name", ["validation_step", pytest.param("sample_from", marks=pytest.mark.slow)])
def test_outside_of_a_step_half_a_batch_is_of_no_help(name, tmp_path, configure, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DiffusionModel, name, full)
    measured = ("metrics=digits", "metrics.num_samples=8", "metrics.kid_subset_size=8", "metrics.reference=train")
    with pytest.raises(ShortOfMemory, match=r"outside of a training step; try metrics.batch_size=N"):
        train(configure(tmp_path / "run", "trainer.max_steps=1", *measured))


@pytest.mark.parametrize(
    ("words", "because"),
    [
        (("halve_batch=false",), "halve_batch=false"),
        (("dataset.batch_size=1",), "1 is odd"),
        (("trainer=ddp",), "several devices"),
        (("dataset=image_folder", "dataset.path=photos", "dataset.buckets=8"), "one size"),
        (("model=autoencoder_kl", "discriminator=patch"), "adversarial"),
    ],
)
def test_where_halves_would_be_another_training_the_batch_stays(words, because):
    assert because in why_not_halved(composed("train", *words))
    assert why_not_halved(composed("train")) is None


def test_compiled_code_is_released_too():
    """Of a training that has ended; a network that is left is compiled again."""
    graphs = []
    network = torch.nn.Bilinear(2, 2, 1)
    compiled = torch.compile(network, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    for count in (1, 1, 2):
        if count == 2:
            release()
        compiled(torch.ones(1, 2), torch.ones(1, 2))
        assert len(graphs) == count
    torch.compiler.reset()


@pytest.mark.parametrize(("batch", "divided"), [(17, (1, 17)), (15, (5, 3)), (32, (16, 2))])
def test_what_is_suggested_keeps_the_samples_of_a_step(batch, divided):
    cfg = composed("train", f"dataset.batch_size={batch}", "halve_batch=false")
    memory = MemoryOfSteps(cfg)
    memory.on_train_batch_start(SimpleNamespace(global_step=0), None)
    with pytest.raises(ShortOfMemory) as error, memory.watched():
        raise torch.OutOfMemoryError("CUDA out of memory")
    smaller = "try dataset.batch_size={} trainer.accumulate_grad_batches={}, ".format(*divided)
    assert smaller in str(error.value)
    assert cfg.dataset.batch_size == batch
