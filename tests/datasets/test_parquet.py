"""The dataset of images in local parquet files."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffsweep.datasets import Parquet
from diffsweep.datasets import decoding as module
from diffsweep.files import ContentError

CIFAR10 = Path(os.environ.get("DIFFSWEEP_CIFAR10", Path(__file__).parents[3] / "shared/data/cifar10-train.parquet"))
NAMES = ("even", "odd")
COUNT = 12


def pictures(count=COUNT, size=8, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


@pytest.fixture
def file(tmp_path, write_parquet):
    columns = {
        "img": pictures(),
        "label": [i % 2 for i in range(COUNT)],
        "text": [f"picture {i}" for i in range(COUNT)],
    }
    return write_parquet(tmp_path / "train.parquet", columns, NAMES)


@pytest.fixture
def make(file, tmp_path):
    """Return a function that makes the dataset of the file; its keywords replace settings."""
    usual = {"path": str(file), "image_column": "img", "label_column": "label", "num_classes": 2, "image_size": 8}
    return lambda **other: Parquet(**{**usual, "num_val": 3, "cache_dir": str(tmp_path / "cache"), **other})


def in_bytes(x):
    return ((x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def test_every_row_is_in_one_split_with_its_label_and_caption(make):
    data = make(caption_column="text")
    assert (len(data.split("train")), len(data.split("val")), len(data.split("all"))) == (COUNT - 3, 3, COUNT)
    found = []
    for split in ("train", "val"):
        batch = data.split(split)[torch.arange(len(data.split(split)))]
        rows = [int(caption.removeprefix("picture ")) for caption in batch["caption"]]
        assert batch["label"].tolist() == [row % 2 for row in rows]
        for image, row in zip(in_bytes(batch["x"]), rows, strict=True):
            assert np.array_equal(image, np.asarray(pictures()[row]))
        found += rows
    assert sorted(found) == list(range(COUNT))


def test_without_label_and_caption_columns_batches_have_images_only(make):
    batch = make(label_column=None, num_classes=None).split("train")[torch.arange(2)]
    assert batch.keys() == {"x"}


def test_several_files_are_read_in_the_order_of_their_names(make, file, tmp_path, write_parquet):
    folder = tmp_path / "shards"
    folder.mkdir()
    for part in (0, 1):
        rows = range(6 * part, 6 * part + 6)
        columns = {"img": [pictures()[i] for i in rows], "label": [i % 2 for i in rows]}
        write_parquet(folder / f"part-{part}[x].parquet", columns, NAMES)
    whole = make().split("all")["x"]
    assert torch.equal(make(path=str(folder)).split("all")["x"], whole)
    assert torch.equal(make(path=str(folder / "*.parquet")).split("all")["x"], whole)


def test_images_may_be_held_out_of_other_files(make, tmp_path, write_parquet):
    columns = {"img": pictures(5, seed=1), "label": [0] * 5}
    other = write_parquet(tmp_path / "test.parquet", columns, NAMES)
    data = make(val_path=str(other), num_val=4)
    assert len(data.split("train")) == COUNT
    theirs = {image.tobytes() for image in in_bytes(data.split("val")["x"])}
    assert len(theirs) == 4
    assert theirs < {np.asarray(image).tobytes() for image in columns["img"]}


def test_fewer_images_hold_out_the_same_ones(make):
    few, every = make(max_images=7), make()
    assert (len(few.split("train")), len(few.split("val"))) == (4, 3)
    assert torch.equal(few.split("val")["x"], every.split("val")["x"])
    assert torch.equal(few.split("train")["x"], every.split("train")["x"][:4])


def test_images_are_decoded_once(make, monkeypatch):
    calls, decode = [], module.decode
    monkeypatch.setattr(module, "decode", lambda *a: (calls.append(1), decode(*a))[1])
    first, again = make().split("train")["x"], make(num_val=5).split("all")["x"]
    assert len(calls) == COUNT
    assert len(again) == COUNT
    assert len(first) == COUNT - 3
    make(image_size=4).split("val")
    assert len(calls) == 2 * COUNT


def test_interrupted_decoding_leaves_no_cached_images(make, monkeypatch, tmp_path):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "decode", stopped)
    with pytest.raises(KeyboardInterrupt):
        make().split("train")
    assert [path.suffix for path in (tmp_path / "cache/images").iterdir()] in ([], [".lock"])


def test_enlarged_images_are_warned_of(make):
    with pytest.warns(UserWarning, match="12 of 12 images are smaller than dataset.image_size=16"):
        make(image_size=16).split("train")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(image_size=4).split("train")


def test_the_fingerprint_changes_with_content_and_settings(make, tmp_path, write_parquet):
    columns = {"img": pictures(), "label": [i % 2 for i in range(COUNT)], "text": ["a"] * COUNT}
    one = write_parquet(tmp_path / "one.parquet", columns, NAMES)
    same = write_parquet(tmp_path / "same.parquet", columns, NAMES)
    columns["label"][0] = 1
    label = write_parquet(tmp_path / "label.parquet", columns, NAMES)
    prints = [make(path=str(path)).fingerprint for path in (one, same, label)]
    assert prints[0] == prints[1] != prints[2]
    other = [
        make(**setting).fingerprint
        for setting in (
            {},
            {"channels": 1},
            {"image_size": 4},
            {"num_val": 4},
            {"max_images": 8},
            {"caption_column": "text"},
            {"label_column": None, "num_classes": None},
            {"val_path": str(same)},
        )
    ]
    assert len(set(other)) == len(other)
    assert make(flip=True, seed=3, batch_size=2, cache_dir=str(tmp_path / "elsewhere")).fingerprint == other[0]


def test_a_changed_file_has_another_fingerprint_and_cache(make, file, write_parquet):
    before, x = make().fingerprint, make().split("train")["x"]
    write_parquet(file, {"img": pictures(seed=5), "label": [0, 1] * 6}, NAMES)
    assert make().fingerprint != before
    assert not torch.equal(make().split("train")["x"], x)


def test_the_hash_of_a_large_file_covers_its_start_middle_and_end(tmp_path):
    from diffsweep.files import BLOCK, _hash

    path, hashes = tmp_path / "large", set()
    content = bytearray(10 * BLOCK + 7)
    for place in (None, 0, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        if place is not None:
            changed[place] = 1
        path.write_bytes(changed)
        hashes.add(_hash(str(path), len(changed), len(hashes), 11 * BLOCK))
    assert len(hashes) == 4
    path.write_bytes(content)
    sampled = _hash(str(path), len(content), 10, 3 * BLOCK)
    changed = bytearray(content)
    changed[-1] = 1
    path.write_bytes(changed)
    assert _hash(str(path), len(content), 11, 3 * BLOCK) != sampled


BAD = [  # settings, and parts of the message
    ({"path": None}, ["dataset.path is missing"]),
    ({"path": "/nowhere/x.parquet"}, ["dataset.path=/nowhere/x.parquet", "no such file"]),
    ({"image_column": "image"}, ["dataset.image_column=image", "has the columns img, label, text"]),
    ({"image_column": "label"}, ["dataset.image_column=label", "int64", "img"]),
    ({"label_column": "klass"}, ["dataset.label_column=klass", "has the columns img, label, text"]),
    ({"label_column": "text"}, ["labels must be 0 to 1", "row 0 has picture 0"]),
    ({"caption_column": "label"}, ["dataset.caption_column=label", "not texts"]),
    ({"num_classes": 3}, ["dataset.num_classes=3", "has 2: even, odd"]),
    ({"num_classes": None}, ["dataset.num_classes=null", "has 2: even, odd"]),
    ({"class_names": ["odd", "even"]}, ["dataset.class_names=[odd, even]", "has 2: even, odd"]),
    ({"label_column": None}, ["dataset.label_column=none", "dataset.num_classes=null"]),
    ({"channels": 4}, ["dataset.channels", "not 4"]),
    ({"levels": 17}, ["dataset.levels", "256"]),
    ({"num_val": COUNT}, ["dataset.num_val=12", "12 images", "hold out fewer"]),
    ({"num_val": 0}, ["dataset.num_val must be at least 1"]),
    ({"max_images": 0}, ["dataset.max_images must be at least 1"]),
]


@pytest.mark.parametrize(("settings", "parts"), BAD, ids=[str(settings) for settings, _ in BAD])
def test_the_message_of_a_mistake_is_one_line_and_names_the_key(make, settings, parts):
    with pytest.raises(ValueError) as error:
        make(**settings)
    assert "\n" not in str(error.value)
    assert all(text in str(error.value) for text in parts), str(error.value)


def test_the_message_names_the_row_of_a_label_out_of_range(make, tmp_path, write_parquet):
    path = write_parquet(tmp_path / "plain.parquet", {"img": pictures(4), "label": [0, 1, 7, 1]})
    with pytest.raises(ValueError, match=r"labels must be 0 to 1, but .*plain.parquet, row 2 has 7"):
        make(path=str(path), num_val=1)


def test_the_message_names_the_row_of_an_unreadable_image(make, tmp_path, write_parquet):
    folder = tmp_path / "some"
    folder.mkdir()
    write_parquet(folder / "a.parquet", {"img": pictures(3), "label": [0, 1, 1]}, NAMES)
    write_parquet(folder / "b.parquet", {"img": [*pictures(1), b"torn", *pictures(1)], "label": [0, 1, 1]}, NAMES)
    data = make(path=str(folder), num_val=1)
    with pytest.raises(ContentError, match=r"b.parquet, row 1: column img has no readable image") as error:
        data.split("train")
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_parquet_file_is_refused(make, tmp_path):
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(ContentError, match=r"text.parquet is no readable parquet file"):
        make(path=str(tmp_path / "text.parquet"))


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """Return a function that makes the dataset of CIFAR-10's training file."""
    if not CIFAR10.is_file():
        pytest.skip("CIFAR-10's training file is not at hand")
    from diffsweep.configuration.build import build_data
    from diffsweep.configuration.compose import compose

    cache = tmp_path_factory.mktemp("cache")
    overrides = ("dataset=cifar10", f"dataset.path={CIFAR10}", f"dataset.cache_dir={cache}", "metrics=none")
    return lambda *more: build_data(compose("train", [*overrides, *more]))


def test_cifar10_has_fifty_thousand_images_and_five_thousand_of_each_class(cifar10):
    data = cifar10()
    assert len(data.order["all"]) == 50_000
    assert torch.bincount(data._labels).tolist() == [5000] * 10


def test_cifar10s_images_equal_those_that_pillow_reads(cifar10):
    import pyarrow.parquet as pq

    data = cifar10("dataset.max_images=40", "dataset.num_val=10")
    column = pq.read_table(CIFAR10, columns=["img"])["img"]
    for split in ("train", "val"):
        x = in_bytes(data.split(split)["x"])
        for image, row in zip(x, data.order[split].tolist(), strict=True):
            with Image.open(io.BytesIO(column[row].as_py()["bytes"])) as opened:
                assert np.array_equal(image, np.asarray(opened.convert("RGB")))
                assert image.mean() == pytest.approx(np.asarray(opened.convert("RGB")).mean(), abs=1e-9)
