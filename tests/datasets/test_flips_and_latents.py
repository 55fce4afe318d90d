"""Mirrored training images, latents in place of pixels, and the file that latents are kept in."""

import itertools
import json

import pytest
import torch

from diffsweep.datasets import Digits, InMemory, Latents, Shapes, open_latents, write_latents
from diffsweep.datasets.base import Batch, ImageData, Mirrored
from diffsweep.files import ContentError

HEADER = {"autoencoder": "abc", "data": "digits-1", "split": "train", "flip": False, "scale": [0.5, 1]}


def images(count=5):
    torch.manual_seed(1)
    return InMemory(
        {"x": torch.randn(count, 2, 3, 4), "label": torch.arange(count), "caption": [f"c{i}" for i in range(count)]}
    )


class Few(ImageData):
    """Five images to train on, three held out."""

    fingerprint = "few"

    def __init__(self, **more):
        super().__init__(2, 4, None, 256, batch_size=4, **more)

    def load(self, split):
        whole = images(8)
        rows = {"train": torch.arange(5), "val": torch.arange(5, 8), "all": torch.arange(8)}[split]
        return InMemory(whole[rows])


def batches(data, count, skip=0) -> list[Batch]:
    return list(itertools.islice(data.train_dataloader(), skip, skip + count))


def test_mirrors_are_the_images_from_right_to_left():
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


def test_what_is_compared_with_and_what_is_held_out_is_not_mirrored():
    data, plain = Few(flip=True), Few()
    for split in ("train", "val", "all"):
        assert torch.equal(data.split(split)["x"], plain.split(split)["x"])
    (held_out,) = data.val_dataloader()
    assert torch.equal(held_out["x"], plain.split("val")["x"])
    assert len(data.loader_samples("train")) == 10
    assert data.loader_samples("val") is data.split("val")


def test_a_stream_of_mirrors_goes_on_where_it_stopped(monkeypatch):
    """As a trainer resumes: its step says where the stream begins."""
    whole = batches(Few(flip=True), 7)
    resumed = Few(flip=True)
    at = type("Trainer", (), {"global_step": 3, "global_rank": 0, "world_size": 1, "accumulate_grad_batches": 1})
    resumed.trainer = at
    for one, other in zip(whole[3:], batches(resumed, 4), strict=True):
        assert torch.equal(one["x"], other["x"])
        assert torch.equal(one["position"], other["position"])


def latents(count=5):
    torch.manual_seed(2)
    return torch.randn(count, 4, 3, 2)


def test_latents_are_told_of_as_their_samples_are():
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


def test_latents_of_other_samples_are_refused():
    with pytest.raises(ValueError, match="latents of 4 samples, and 5 samples"):
        Latents(latents(4), images(5))


def test_latents_touch_no_image():
    class Dark(InMemory):
        def rows(self, index):
            raise AssertionError("an image was asked for")

        def part(self, name):
            assert name != "x"
            return super().part(name)

    batch = Latents(torch.cat([latents()] * 2), Mirrored(Dark(images().parts)))[torch.tensor([8])]
    assert batch["label"].tolist() == [3]


@pytest.mark.parametrize("make", [Digits, lambda: Shapes(num_train=20, num_val=5)], ids=["digits", "shapes"])
def test_loaders_give_what_is_to_be_seen_in_place_of_pixels(make):
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
def test_what_is_written_is_what_is_read(tmp_path, dtype, error):
    written = latents(1000)
    write_latents(tmp_path / "latents", HEADER, iter(written.split(300)), 1000, dtype)
    read = open_latents(tmp_path / "latents", HEADER)
    assert read.dtype == getattr(torch, dtype)
    off = ((read.float() - written).abs() / written.abs().clamp(min=1e-4)).max()  # float16 is subnormal below 6e-5
    assert off <= error
    rows = torch.tensor([999, 0, 5])
    assert torch.equal(Latents(read, images(1000)).rows(rows)["posterior"], read[rows].float())


def test_any_reader_of_safetensors_opens_it(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    write_latents(tmp_path / "latents", HEADER, iter([latents()]), 5, "bfloat16")
    with safetensors.safe_open(tmp_path / "latents", framework="pt") as file:
        assert torch.equal(file.get_tensor("posterior"), latents().bfloat16())
        assert {key: json.loads(value) for key, value in file.metadata().items()} == HEADER


@pytest.mark.parametrize("key", HEADER)
def test_a_file_of_another_header_is_refused_by_what_differs(tmp_path, key):
    path = tmp_path / "latents"
    write_latents(path, HEADER, iter([latents()]), 5)
    for other in ({**HEADER, key: "def"}, {name: value for name, value in HEADER.items() if name != key}):
        with pytest.raises(ValueError, match=rf"holds latents of another {key} \(.*, this run has") as error:
            open_latents(path, other)
        assert "\n" not in str(error.value)
    with pytest.raises(ContentError, match=r"another sampling \(nothing, this run has mean\)"):
        open_latents(path, {**HEADER, "sampling": "mean"})


def test_the_line_shows_both_values(tmp_path):
    write_latents(tmp_path / "latents", HEADER, iter([latents()]), 5)
    with pytest.raises(ContentError, match=r"another autoencoder \(abc, this run has def\)"):
        open_latents(tmp_path / "latents", {**HEADER, "autoencoder": "def"})


def stopped():
    yield latents(2)
    raise KeyboardInterrupt


BROKEN = {
    "stopped": (stopped(), KeyboardInterrupt, ""),
    "too few": (iter([latents(4)]), ValueError, "latents of 4 than"),
    "none": (iter([]), ValueError, "not of 5"),
    "too many": (iter([latents(3), latents(3)]), ValueError, "more than 5"),
    "not finite": (iter([latents(3), latents(2) / 0]), ValueError, "not finite in float32 in rows 3 to 4"),
    "of two shapes": (iter([latents(3), latents(2).mT]), ValueError, "after others of shape"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_writing_that_fails_leaves_nothing(tmp_path, what):
    rows, error, said = BROKEN[what]
    with pytest.raises(error, match=said):
        write_latents(tmp_path / "latents", HEADER, rows, 5)
    assert not list(tmp_path.iterdir())


def test_values_beyond_float16_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not finite in float16"):
        write_latents(tmp_path / "latents", HEADER, iter([1e5 * torch.ones(5, 1, 1, 1)]), 5, "float16")


def test_a_file_that_is_cut_short_absent_or_another_is_refused(tmp_path):
    path = tmp_path / "latents"
    with pytest.raises(ContentError, match="no latents that can be read"):
        open_latents(path, HEADER)
    write_latents(path, HEADER, iter([latents()]), 5)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ContentError, match="cut short"):
        open_latents(path, HEADER)
    for other in (content[:50], b"", b"\xff" * 100):
        path.write_bytes(other)
        with pytest.raises(ContentError, match="no latents that can be read"):
            open_latents(path, HEADER)


def test_a_later_file_takes_the_place_of_an_earlier_one(tmp_path):
    path = tmp_path / "latents"
    write_latents(path, HEADER, iter([latents()]), 5)
    write_latents(path, {**HEADER, "data": "other"}, iter([latents() + 1]), 5)
    assert torch.equal(open_latents(path, {**HEADER, "data": "other"}), latents() + 1)
