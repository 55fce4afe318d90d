"""Weights sharded over two processes: steps, averages, clipping and checkpoints are those of whole ones."""

import os
import re
import shutil
import socket
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from torch.multiprocessing.spawn import start_processes
from trainers import QUIET

from diffsweep.backbones import UNet
from diffsweep.callbacks import EMA, ShardedStrategy
from diffsweep.callbacks.checkpoints import (
    BEST,
    FILES,
    LAST,
    PREVIOUS,
    AtomicCheckpoints,
    newest_whole,
    read_checkpoint,
    restore_last,
)
from diffsweep.callbacks.shards import files_of, remove_unused
from diffsweep.errors import UserError
from diffsweep.layers.sharding import is_sharded, own_part
from diffsweep.models import Model
from diffsweep.tensor_files import DamagedFile, write_tensors

STEPS, BATCH = 3, 4
INPUT = (torch.ones(1, 1, 8, 8), torch.zeros(1))


class Regression(Model):
    """A model that learns to map noise to its half, with a U-Net and a frozen part."""

    networks = ("network",)

    def __init__(self):
        super().__init__(
            lambda weights: torch.optim.AdamW(weights, 0.01, fused=True), torch.optim.lr_scheduler.ConstantLR
        )
        torch.manual_seed(0)
        self.network = UNet(1, 1, 8, channels=8, channel_mult=[1, 2], num_res_blocks=1)
        self.network.conv_in.requires_grad_(False)
        self.frozen = torch.nn.Linear(2, 2).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        x = batch["x"]
        return (self.network(x, torch.zeros(len(x))) - x / 2).square().mean()

    def training_metrics(self):
        return {}

    def validation_step(self, batch, batch_idx):
        x = batch["x"]
        self.log("val/loss", (self.network(x, torch.zeros(len(x))) - x / 2).square().mean(), sync_dist=True)


def trained(path, rank, world, ckpt_path=None, **settings):
    """Train on a share of the same data, save a checkpoint, and return the trainer, the model and its average."""
    if world > 1:
        settings["strategy"] = ShardedStrategy()
    noise = torch.Generator().manual_seed(1)
    size = BATCH // world
    x = torch.randn(STEPS, BATCH, 1, 8, 8, generator=noise)[:, rank * size : (rank + 1) * size].flatten(0, 1)
    rows = [{"x": row} for row in x]
    loaders = [torch.utils.data.DataLoader(rows, size), torch.utils.data.DataLoader(rows, size)]
    model, ema = Regression(), EMA(0.5, warmup=False)
    settings |= {
        "devices": world,
        "max_steps": STEPS,
        "gradient_clip_val": 0.05,
        "limit_val_batches": 1,
        "num_sanity_val_steps": 1,
    }
    settings |= {"use_distributed_sampler": False, "inference_mode": False, "plugins": [AtomicCheckpoints()]}
    trainer = Trainer(**{**QUIET, **settings}, callbacks=[ema])
    trainer.fit(model, *loaders, ckpt_path=ckpt_path)
    trainer.save_checkpoint(path)
    return trainer, model, ema


def held_by(trainer, model, ema):
    """Return the weights of the network, their averages and the optimizer's states."""
    states = [value for state in trainer.optimizers[0].state.values() for value in state.values() if value.ndim]
    return [*model.network.parameters(), *ema.average.values(), *states]


def bytes_of(tensors):
    return sum(own_part(tensor).nbytes for tensor in tensors)


def _train(rank, folder, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK="0", LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    trainer, model, ema = trained(folder / LAST, rank, 2)
    tensors = held_by(trainer, model, ema)
    record = {"bytes": bytes_of(tensors), "sharded": all(map(is_sharded, tensors))}
    with ema.applied(model), trainer.strategy.gathered():
        if rank == 0:  # the other one does not call it
            record["output"] = model.network.to("cpu")(*INPUT).detach()
    record["loss"] = float(trainer.callback_metrics["val/loss"])
    trained(folder / "again" / LAST, rank, 2, ckpt_path=folder / "one.ckpt")  # takes no step: all are taken
    torch.save(record, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of two processes, what is known of them, and the same of one process with the whole batch."""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    trainer, model, ema = trained(one / LAST, 0, 1)
    alone = {"bytes": bytes_of(held_by(trainer, model, ema)), "loss": float(trainer.callback_metrics["val/loss"])}
    with ema.applied(model):
        alone["output"] = model.network(*INPUT).detach()
    (two / "one.ckpt").write_bytes((one / LAST).read_bytes())
    start_processes(_train, (two, free_port()), 2, start_method="spawn")
    records = [torch.load(two / f"{rank}.pt") for rank in (0, 1)]
    return SimpleNamespace(two=two, records=records, alone=alone, expected=read_checkpoint(one / LAST))


def test_a_training_has_the_weights_averages_and_optimizer_states_of_one_process(runs):
    """With clipped gradients: the largest norm allowed is below theirs."""
    found = read_checkpoint(runs.two / LAST)
    assert found.keys() - {"format"} == runs.expected.keys()
    for name in ("state_dict", "ema", "optimizer_states"):
        torch.testing.assert_close(found[name], runs.expected[name], rtol=1e-4, atol=1e-6)
    assert all(record["loss"] == pytest.approx(runs.alone["loss"], rel=1e-5) for record in runs.records)


def test_each_process_has_half_of_all_that_is_large(runs):
    shares = [record["bytes"] / runs.alone["bytes"] for record in runs.records]
    assert all(record["sharded"] for record in runs.records)
    assert sum(shares) == pytest.approx(1)
    assert max(shares) < 0.55  # one row of a weight cannot be divided


def test_gathered_averages_are_a_plain_network_of_one_process(runs):
    torch.testing.assert_close(runs.records[0]["output"], runs.alone["output"], rtol=1e-4, atol=1e-6)


def test_a_checkpoint_of_one_process_goes_on_sharded_to_the_bit(runs):
    """What two processes have read and written again, without a step, is what it was."""
    again = read_checkpoint(runs.two / "again" / LAST)
    assert len(files_of(runs.two / "again" / LAST)) == 2
    for name in ("state_dict", "ema", "optimizer_states"):
        torch.testing.assert_close(again[name], runs.expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("fault", ["missing", "torn", "of another save"])
def test_a_fault_of_one_file_is_found_and_the_other_checkpoint_taken(fault, runs, tmp_path):
    for file in (LAST, *(path.name for path in files_of(runs.two / LAST))):
        shutil.copy(runs.two / file, tmp_path)
    for path in [*tmp_path.iterdir()]:  # the best one, of the same step, with files of its own
        shutil.copy(path, tmp_path / path.name.replace("last", "best"))
    content = torch.load(tmp_path / LAST)
    content["shards"]["files"] = [[name.replace("last", "best"), hash_] for name, hash_ in content["shards"]["files"]]
    write_tensors(tmp_path / BEST, content, STEPS)
    assert restore_last(tmp_path) is None
    first, second = files_of(tmp_path / LAST)
    if fault == "missing":
        second.unlink()
    elif fault == "torn":
        second.write_bytes(second.read_bytes()[:-200])
    else:
        shutil.copy(first, second)
    with pytest.raises(DamagedFile, match=re.escape(second.name)) as error:
        read_checkpoint(tmp_path / LAST)
    assert "\n" not in str(error.value)
    assert newest_whole(tmp_path, tmp_path / LAST).path.name == BEST
    assert "goes on from best.ckpt" in restore_last(tmp_path)
    assert read_checkpoint(tmp_path / LAST)["global_step"] == STEPS


def _on_gpu(rank, folder, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK="0", LOCAL_RANK="0")
    settings = {"strategy": ShardedStrategy(), "accelerator": "gpu"}
    trainer, model, ema = trained(folder / LAST, 0, 1, **settings)
    with ema.applied(model), trainer.strategy.gathered():
        torch.save(model.network(*(part.to(model.device) for part in INPUT)).detach().cpu(), folder / "output.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.gpu
def test_a_gpu_has_the_weights_and_outputs_of_a_cpu(runs, tmp_path):
    """One device is a mesh of one; the model stays on it after training."""
    start_processes(_on_gpu, (tmp_path, free_port()), 1, start_method="spawn")
    found = read_checkpoint(tmp_path / LAST)
    for name in ("state_dict", "ema"):
        torch.testing.assert_close(found[name], runs.expected[name], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(torch.load(tmp_path / "output.pt"), runs.alone["output"], rtol=1e-3, atol=1e-4)


def test_weights_that_train_beside_the_networks_are_refused():
    model, strategy = Regression(), ShardedStrategy()
    model.frozen.weight.requires_grad_(True)
    strategy.connect(model)
    with pytest.raises(UserError, match=r"^frozen.weight trains, and is in no network .*; use trainer=ddp$"):
        strategy.model_to_device()


def test_files_without_a_checkpoint_are_deleted(runs, tmp_path):
    for file in (LAST, *(path.name for path in files_of(runs.two / LAST))):
        shutil.copy(runs.two / file, tmp_path)
    (tmp_path / "best-00000002-0123abcd-1of2.shard").touch()
    remove_unused(tmp_path, FILES)
    assert sorted(path.name for path in tmp_path.glob("*.shard")) == [path.name for path in files_of(tmp_path / LAST)]
    whole = read_checkpoint(tmp_path / LAST)
    AtomicCheckpoints().save_checkpoint(whole, tmp_path / LAST)
    assert len([*tmp_path.glob("*.shard")]) == 2  # the checkpoint before the last has them still
    (tmp_path / PREVIOUS).unlink()
    remove_unused(tmp_path, FILES)
    assert not [*tmp_path.glob("*.shard")]
