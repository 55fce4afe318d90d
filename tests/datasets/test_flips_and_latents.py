"""Mirrored training images, latents in place of pixels, and the file format of latents."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch

from diffsweep.datasets import (
    Batch,
    Digits,
    ImageData,
    InMemory,
    Latents,
    Mirrored,
    Shapes,
    open_latents,
    write_latents,
)
from diffsweep.files import ContentError

HEADER = {"autoencoder": "abc", "data": "digits-1", "split": "train", "flip": False, "scale": [0.5, 1]}


def images(count=5):
    torch.manual_seed(1)
    return InMemory(
        {"x": torch.randn(count, 2, 3, 4), "label": torch.arange(count), "caption": [f"c{i}" for i in range(count)]}
    )


class Few(ImageData):
    """A dataset of five training images and three held-out ones."""

    fingerprint = "few"

    def __init__(self, **more):
        super().__init__(2, 4, None, 256, batch_size=4, **more)

    def load(self, split):
        whole = images(8)
        rows = {"train": torch.arange(5), "val": torch.arange(5, 8), "all": torch.arange(8)}[split]
        return InMemory(whole[rows])


def batches(data, count, skip=0) -> list[Batch]:
    return list(itertools.islice(data.train_dataloader(), skip, skip + count))


def test_mirrors_are_the_images_flipped_left_to_right():
    plain, both = images(), Mirrored(images())
    assert len(both) == 10
    batch = both[torch.tensor([7, 2, 9])]
    x = plain["x"]
    by_hand = torch.stack([x[2][..., [3, 2, 1, 0]], x[2], x[4][..., [3, 2, 1, 0]]])
    assert torch.equal(batch["x"], by_hand)
    assert batch["label"].tolist() == [2, 2, 4]
    assert batch["caption"] == ["c2", "c2", "c4"]
    assert torch.equal(both["x"][[7, 2, 9]], by_hand)
    assert both["label"].tolist() == [0, 1, 2, 3, 4] * 2
    assert both["caption"][7] == "c2"
    assert both.annotations(torch.tensor([7])) == {"label": torch.tensor([2]), "caption": ["c2"]}


def test_an_epoch_shows_each_image_and_its_mirror_once():
    data = Few(flip=True)
    x = torch.cat([batch["x"] for batch in batches(data, 5)])  # two epochs of ten
    plain = data.split("train")["x"]
    expected = sorted(row.numpy().tobytes() for row in torch.cat([plain, plain.flip(3)]))
    for epoch in x.split(10):
        assert sorted(row.numpy().tobytes() for row in epoch) == expected
    assert not torch.equal(x[:10], x[10:])


def test_splits_and_held_out_images_are_not_mirrored():
    data, plain = Few(flip=True), Few()
    for split in ("train", "val", "all"):
        assert torch.equal(data.split(split)["x"], plain.split(split)["x"])
    (held_out,) = data.val_dataloader()
    assert torch.equal(held_out["x"], plain.split("val")["x"])
    assert len(data.loader_samples("train")) == 10
    assert data.loader_samples("val") is data.split("val")


def test_a_stream_with_mirrors_resumes_where_it_stopped(monkeypatch):
    """The trainer's step determines where the stream begins."""
    whole = batches(Few(flip=True), 7)
    resumed = Few(flip=True)
    trainer = SimpleNamespace(global_step=3, global_rank=0, world_size=1, accumulate_grad_batches=1)
    trainer.strategy = SimpleNamespace(root_device=torch.device("cpu"))
    resumed.trainer = trainer
    for one, other in zip(whole[3:], batches(resumed, 4), strict=True):
        assert torch.equal(one["x"], other["x"])
        assert torch.equal(one["position"], other["position"])


def latents(count=5):
    torch.manual_seed(2)
    return torch.randn(count, 4, 3, 2)


def test_latents_have_the_annotations_of_their_samples():
    samples = Latents(latents(), images())
    assert len(samples) == 5
    batch = samples[torch.tensor([3, 1])]
    assert batch.keys() == {"posterior", "label", "caption"}
    assert torch.equal(batch["posterior"], latents()[[3, 1]])
    assert batch["label"].tolist() == [3, 1]
    assert batch["caption"] == samples.annotations(torch.tensor([3, 1]))["caption"] == ["c3", "c1"]
    assert torch.equal(samples["posterior"], latents())
    assert samples["label"].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError, match="latents"):
        samples["x"]


def test_latents_of_another_number_of_samples_are_refused():
    with pytest.raises(ValueError, match="latents are those of 4 samples, but the split has 5"):
        Latents(latents(4), images(5))


def test_latents_load_no_image():
    class WithoutImages(InMemory):
        def rows(self, index):
            raise AssertionError("an image was loaded")

        def part(self, name):
            assert name != "x"
            return super().part(name)

    batch = Latents(torch.cat([latents()] * 2), Mirrored(WithoutImages(images().parts)))[torch.tensor([8])]
    assert batch["label"].tolist() == [3]


@pytest.mark.parametrize("make", [Digits, lambda: Shapes(num_train=20, num_val=5)], ids=["digits", "shapes"])
def test_loaders_give_the_latents_that_replace_pixels(make):
    data = make()
    data.replace_samples(
        "train", Latents(torch.arange(float(len(data.split("train"))))[:, None, None, None], data.split("train"))
    )
    data.replace_samples(
        "val", Latents(torch.arange(float(len(data.split("val"))))[:, None, None, None], data.split("val"))
    )
    batch = next(iter(data.train_dataloader()))
    rows = batch["posterior"].flatten().long()
    assert "x" not in batch
    assert torch.equal(batch["label"], data.split("train")["label"][rows])
    assert torch.equal(batch["position"], torch.arange(data.batch_size))
    held_out = next(iter(data.val_dataloader()))
    assert torch.equal(held_out["posterior"].flatten().long(), held_out["index"])
    plain = next(iter(make().train_dataloader()))
    assert torch.equal(plain["x"], data.split("train")[rows]["x"])  # the same samples in the same order


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_latents_are_read_as_they_were_written(tmp_path, dtype, error):
    written = latents(1000)
    write_latents(tmp_path / "latents", HEADER, iter(written.split(300)), 1000, dtype)
    read = open_latents(tmp_path / "latents", HEADER)
    assert read.dtype == getattr(torch, dtype)
    relative = ((read.float() - written).abs() / written.abs().clamp(min=1e-4)).max()  # float16 is subnormal below 6e-5
    assert relative <= error
    rows = torch.tensor([999, 0, 5])
    assert torch.equal(Latents(read, images(1000)).rows(rows)["posterior"], read[rows].float())


def test_the_safetensors_library_reads_the_file(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    write_latents(tmp_path / "latents", HEADER, iter([latents()]), 5, "bfloat16")
    with safetensors.safe_open(tmp_path / "latents", framework="pt") as file:
        assert torch.equal(file.get_tensor("posterior"), latents().bfloat16())
        assert {key: json.loads(value) for key, value in file.metadata().items()} == HEADER


@pytest.mark.parametrize("key", HEADER)
def test_a_file_with_another_header_is_refused_naming_the_difference(tmp_path, key):
    path = tmp_path / "latents"
    write_latents(path, HEADER, iter([latents()]), 5)
    for other in ({**HEADER, key: "def"}, {name: value for name, value in HEADER.items() if name != key}):
        with pytest.raises(ValueError, match=rf"holds latents of another {key} \(.*, this run has") as error:
            open_latents(path, other)
        assert "\n" not in str(error.value)
    with pytest.raises(ContentError, match=r"another sampling \(nothing, this run has mean\)"):
        open_latents(path, {**HEADER, "sampling": "mean"})


def test_the_message_shows_both_values(tmp_path):
    write_latents(tmp_path / "latents", HEADER, iter([latents()]), 5)
    with pytest.raises(ContentError, match=r"another autoencoder \(abc, this run has def\)"):
        open_latents(tmp_path / "latents", {**HEADER, "autoencoder": "def"})


def stopped():
    yield latents(2)
    raise KeyboardInterrupt


BROKEN = {
    "stopped": (stopped(), KeyboardInterrupt, ""),
    "too few": (iter([latents(4)]), ValueError, "4 rows of latents were given, not 5"),
    "none": (iter([]), ValueError, "0 rows .* not 5"),
    "too many": (iter([latents(3), latents(3)]), ValueError, "more rows of latents were given, not 5"),
    "not finite": (iter([latents(3), latents(2) / 0]), ValueError, "not finite in float32 in rows 3 to 4"),
    "two shapes": (iter([latents(3), latents(2).mT]), ValueError, "after others of shape"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_failed_write_leaves_no_file(tmp_path, what):
    rows, error, message = BROKEN[what]
    with pytest.raises(error, match=message):
        write_latents(tmp_path / "latents", HEADER, rows, 5)
    assert not list(tmp_path.iterdir())


def test_values_beyond_float16_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not finite in float16"):
        write_latents(tmp_path / "latents", HEADER, iter([1e5 * torch.ones(5, 1, 1, 1)]), 5, "float16")


def test_an_absent_cut_or_foreign_file_is_refused(tmp_path):
    path = tmp_path / "latents"
    with pytest.raises(ContentError, match="no readable latents"):
        open_latents(path, HEADER)
    write_latents(path, HEADER, iter([latents()]), 5)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ContentError, match="cut short"):
        open_latents(path, HEADER)
    for other in (content[:50], b"", b"\xff" * 100):
        path.write_bytes(other)
        with pytest.raises(ContentError, match="no readable latents"):
            open_latents(path, HEADER)


def test_writing_again_replaces_the_file(tmp_path):
    path = tmp_path / "latents"
    write_latents(path, HEADER, iter([latents()]), 5)
    write_latents(path, {**HEADER, "data": "other"}, iter([latents() + 1]), 5)
    assert torch.equal(open_latents(path, {**HEADER, "data": "other"}), latents() + 1)
