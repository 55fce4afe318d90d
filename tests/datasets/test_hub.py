"""Datasets that Hugging Face ``datasets`` loads: local folders in each of its forms, and names without a network."""

import itertools
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffsweep.configuration.compose import compose
from diffsweep.configuration.preflight import preflight
from diffsweep.datasets import Hub, ImageFolder
from diffsweep.errors import UserError


@pytest.fixture
def make(hub, tmp_path):
    return lambda name=hub, **more: Hub(
        str(name), **{"image_size": 8, "num_val": 6, "cache_dir": str(tmp_path / "cache"), **more}
    )


def test_the_images_and_labels_are_those_of_the_files(make, image_folder, tmp_path):
    labelled = {"label_column": "label", "num_classes": 10}
    found = make(**labelled).split("all")
    data = ImageFolder(str(image_folder), image_size=8, num_val=6, cache_dir=str(tmp_path / "other"))
    ours = sorted(
        (row.numpy().tobytes(), label) for row, label in zip(found["x"], found["label"].tolist(), strict=True)
    )
    assert [row for row, _ in ours] == sorted(row.numpy().tobytes() for row in data.split("all")["x"])
    assert torch.bincount(found["label"]).tolist() == [24] * 10


def test_splits_are_by_name(make):
    data = make(val_split="test", num_val=None, train_split="train[:50]")
    assert (len(data.split("train")), len(data.split("val"))) == (50, 240)


def test_what_is_left_open_is_found(hub, tmp_path):
    cfg = compose("train", ["dataset=hub", f"dataset.name={hub}", f"dataset.cache_dir={tmp_path}", "logger=csv"])
    found = cfg.dataset
    assert (found.image_column, found.label_column, found.caption_column) == ("image", "label", None)
    assert (found.num_classes, found.class_names[0], found.channels, found.image_size) == (10, "airplane", 3, 8)
    assert found.num_val == 24
    assert cfg.choices.metrics == "classifier"


def test_webdatasets_are_read(make, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    (tmp_path / "web").mkdir()
    with tarfile.open(tmp_path / "web/train-0000.tar", "w") as tar:
        for number, image in enumerate(pixels):
            for suffix in ("png", "txt"):
                file = tmp_path / f"{number:03}.{suffix}"
                Image.fromarray(image).save(file) if suffix == "png" else file.write_text(f"picture {number}")
                tar.add(file, file.name)
    data = make(tmp_path / "web", image_column="png", caption_column="txt", num_val=1)
    found = data.split("all")
    rows = [int(caption.removeprefix("picture ")) for caption in found["caption"]]
    assert sorted(rows) == list(range(5))
    in_bytes = ((found["x"] + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(in_bytes, pixels[rows])


def test_the_fingerprint_is_that_of_the_content(make):
    prints = [make().fingerprint, make(train_split="train[:100]").fingerprint, make(max_images=50).fingerprint]
    assert len(set(prints)) == 3
    assert make(batch_size=3).fingerprint == prints[0]


def test_a_name_that_cannot_be_loaded_is_one_line(no_hub, tmp_path):
    for settings, part in (
        (["dataset.name=nobody/nothing-here"], "dataset.name=nobody/nothing-here: split train cannot be loaded"),
        (
            ["dataset.name=nobody/nothing-here", "dataset.streaming=true"],
            "dataset.name=nobody/nothing-here: split train cannot be loaded",
        ),
        ([], "dataset.name is missing"),
    ):
        with pytest.raises(UserError) as error:
            preflight(compose("train", ["dataset=hub", "logger=csv", f"dataset.cache_dir={tmp_path}", *settings]))
        assert part in str(error.value)
        assert "\n" not in str(error.value)


def test_a_split_or_a_column_that_does_not_exist_is_named(make):
    with pytest.raises(ValueError, match=r"split validation cannot be loaded.*validation"):
        make(train_split="validation")
    with pytest.raises(ValueError, match=r"dataset.label_column=kind: .*split train has the columns image, label"):
        make(label_column="kind", num_classes=2)


def test_a_stream_has_the_images_of_the_loaded_dataset(make, hub, tmp_path):
    labelled = {"label_column": "label", "num_classes": 10, "batch_size": 26}
    held, streamed = make(**labelled), make(streaming=True, **labelled)
    batches = list(itertools.islice(streamed.train_dataloader(), 9))
    x, label = (
        torch.cat([*(batch[name] for batch in batches), streamed.split("val")[name]]) for name in ("x", "label")
    )
    found, wanted = (
        sorted((row.numpy().tobytes(), one) for row, one in zip(*columns, strict=True))
        for columns in ((x, label.tolist()), (held.split("all")["x"], held.split("all")["label"].tolist()))
    )
    assert found == wanted
    cfg = compose(
        "train",
        ["dataset=hub", f"dataset.name={hub}", "dataset.streaming=true", f"dataset.cache_dir={tmp_path}", "logger=csv"],
    ).dataset
    assert (cfg.image_column, cfg.num_classes, cfg.class_names[0], cfg.num_val) == ("image", 10, "airplane", 24)
    with pytest.raises(ValueError, match=r"no split train\[:9\], but .*; streamed data take dataset.max_images"):
        make(streaming=True, train_split="train[:9]")
    with pytest.raises(ValueError, match=r"kind imagefolder, and parquet and webdataset files can be streamed"):
        make(hub.parent / "photos", streaming=True)


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_files_elsewhere_are_read_piecewise(kind, hub, tars, tmp_path):
    import fsspec

    from diffsweep.datasets.hub_files import READERS
    from diffsweep.datasets.shards import RemoteFile

    files = [hub / "train-00000.parquet"] if kind == "parquet" else sorted(Path(tars).glob("*.tar"))
    urls = [f"memory://{kind}/{file.name}" for file in files]
    for file, url in zip(files, urls, strict=True):
        with fsspec.open(url, "wb") as copy:
            copy.write(file.read_bytes())
    away, here = (
        READERS[kind]("dataset.name", every, None, tmp_path) for every in (list(map(RemoteFile, urls)), files)
    )
    image, label = ("image", "label") if kind == "parquet" else ("png", "cls")
    assert away.piece_ends == here.piece_ends
    for first, stop in zip([0, *here.piece_ends], here.piece_ends, strict=False):
        theirs, ours = (table.read(image, [label], first, stop) for table in (away, here))
        assert list(theirs[image]) == list(ours[image])
        assert list(theirs[label]) == list(ours[label])
    before = away.content
    assert before == READERS[kind]("dataset.name", list(map(RemoteFile, urls)), None, tmp_path).content
    with fsspec.open(urls[0], "ab") as copy:
        copy.write(b"more")
    assert away.content != before
