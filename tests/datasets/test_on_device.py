"""Batches that are made on the training device of images that are kept on it."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffsweep.configuration.compose import compose
from diffsweep.configuration.preflight import preflight
from diffsweep.datasets import Digits, ImageData, InMemory, Latents, Mirrored, Shapes, placement
from diffsweep.datasets.byte_images import ByteClips, ByteImages, copied
from diffsweep.datasets.placement import on_training_device
from diffsweep.errors import UserError
from diffsweep.files import ContentError

CPU = torch.device("cpu")


def pixels(count=40):
    return torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def annotations(count):
    return {"label": torch.arange(count) % 7, "caption": [f"c{n}" for n in range(count)]}


def byte_images(_=None):
    return ByteImages(pixels(), torch.randperm(40)[:30], annotations(30))


def clips(_=None):
    """Clips of every second of 5 frames that overlap, from 40 frames."""
    return ByteClips(pixels(), torch.tensor([20, 3, 5, 31]), annotations(4), 2 * torch.arange(3))


def latents(dtype):
    return Latents(torch.randn(60, 4, 2, 2).to(dtype), Mirrored(byte_images()))


TABLES = {
    "bytes": byte_images,
    "mirrored": lambda: Mirrored(byte_images()),
    "clips": clips,
    "floats": lambda: InMemory({"x": torch.randn(9, 1, 2, 2), **annotations(9)}),
    "float16 latents": lambda: latents(torch.float16),
    "bfloat16 latents": lambda: latents(torch.bfloat16),
}


class Whole(ImageData):
    """A dataset of one of the tables above, which is its training and its held-out split."""

    fingerprint = "whole"

    def __init__(self, table, device, **more):
        super().__init__(3, 4, 7, 256, batch_size=8, **more)
        torch.manual_seed(0)
        self.table = TABLES[table]()
        self.trainer = SimpleNamespace(
            global_step=2,
            global_rank=0,
            world_size=1,
            accumulate_grad_batches=1,
            strategy=SimpleNamespace(root_device=torch.device(device)),
        )

    def load(self, split):
        return self.table

    def batches(self, count=12):
        return [*itertools.islice(self.train_dataloader(), count), *self.val_dataloader()]


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, part in theirs.items():
        if isinstance(part, torch.Tensor):
            assert part.dtype == ours[name].dtype
            assert torch.equal(ours[name].cpu(), part.cpu())
        else:
            assert ours[name] == part


@pytest.mark.parametrize("balance", ["none", "classes"])
@pytest.mark.parametrize("table", ["bytes", "mirrored", "floats"])
def test_copied_images_give_the_batches_of_the_originals(table, balance):
    for one, other in zip(
        Whole(table, "cpu", on_device=True, balance=balance).batches(),
        Whole(table, "cpu", on_device=False, balance=balance).batches(),
        strict=True,
    ):
        assert_same(one, other)


@pytest.mark.parametrize("table", TABLES)
def test_a_copied_table_has_the_rows_of_the_original(table):
    samples = TABLES[table]()
    copy = samples.to(CPU)
    assert len(copy) == len(samples)
    index = torch.randint(len(samples), (20,))
    assert_same(copy[index], samples[index])
    assert copy.stored_bytes == samples.stored_bytes


def test_stored_bytes_are_those_of_the_rows_that_are_used():
    assert byte_images().stored_bytes == 30 * 48
    assert Mirrored(byte_images()).stored_bytes == 30 * 48
    assert byte_images().to(CPU).images.shape[0] == 30
    assert clips().stored_bytes == 48 * len({*range(20, 25), *range(3, 10), *range(31, 36)})  # 3 and 5 overlap
    assert latents(torch.float16).stored_bytes == 60 * 16 * 2


def test_images_are_copied_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("diffsweep.datasets.byte_images.BLOCK", 100)  # two images
    np.save(tmp_path / "images.npy", pixels().numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="c"))
    index = torch.randperm(40)[:31]
    assert torch.equal(copied(mapped, index, CPU), pixels()[index])


def test_a_quarter_of_the_free_memory_is_the_most_by_itself(monkeypatch):
    """With a stand-in for the GPU's memory: what is decided, not the copy."""
    free = 4 * 30 * 48
    monkeypatch.setattr(placement.torch.cuda, "mem_get_info", lambda device: (free, 10 * free))
    monkeypatch.setattr(ByteImages, "to", lambda self, device: (self, device))
    samples, gpu = byte_images(), torch.device("cuda", 0)
    assert on_training_device(samples, "auto", gpu) == (samples, gpu)
    assert on_training_device(samples, False, gpu) is None
    assert on_training_device(samples, "auto", CPU) is None
    drawn = Shapes(num_train=20, num_val=5).split("train")
    assert on_training_device(drawn, "auto", gpu) is None
    free -= 4
    assert on_training_device(samples, "auto", gpu) is None
    assert on_training_device(samples, True, gpu) == (samples, gpu)
    free = 30 * 48 - 1
    with pytest.raises(ContentError, match=r"on_device=true: the images take .* use dataset\.on_device=auto"):
        on_training_device(samples, True, gpu)
    with pytest.raises(ContentError, match="draws them when they are requested"):
        on_training_device(drawn, True, gpu)


def test_images_that_are_drawn_are_refused_before_a_run():
    with pytest.raises(UserError, match=r"use dataset.on_device=auto.*images_on_the_device_are_stored"):
        preflight(compose("train", ["dataset=shapes", "dataset.on_device=true", "metrics=none", "logger=csv"]))
    preflight(compose("train", ["dataset.on_device=true", "logger=csv"]))


@pytest.mark.gpu
@pytest.mark.parametrize("table", TABLES)
def test_batches_on_a_gpu_are_those_of_the_cpu_and_wait_for_nothing(table):
    ours, theirs = Whole(table, "cuda:0"), Whole(table, "cuda:0", on_device=False, num_workers=1)
    loader = iter(ours.train_dataloader())
    next(loader)
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = next(loader)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert all(part.is_cuda for part in batch.values() if isinstance(part, torch.Tensor))
    for one, other in zip(ours.batches(), theirs.batches(), strict=True):
        assert_same(one, other)


@pytest.mark.gpu
def test_digits_are_kept_on_a_gpu_by_themselves():
    data = Digits()
    data.trainer = Whole("bytes", "cuda:0").trainer
    assert next(iter(data.train_dataloader()))["x"].is_cuda
    assert next(iter(data.val_dataloader()))["x"].is_cuda
