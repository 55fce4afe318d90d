"""Tar files in the webdataset convention and Arrow files, decoded and streamed, and what is refused in them."""

import inspect
import io
import itertools
import json
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diffsweep.configuration.check import locate
from diffsweep.configuration.compose import compose
from diffsweep.configuration.conf import content
from diffsweep.datasets import Arrow, ImageData, ImageFolder, WebDataset
from diffsweep.datasets import tar_files as module

SIDE = 8
KINDS = {"webdataset": (WebDataset, "tars", "png", "cls"), "arrow": (Arrow, "arrow_folder", "image", "label")}


def png(number):
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def make(tmp_path):
    usual = {"image_size": SIDE, "num_val": 6, "cache_dir": str(tmp_path / "cache"), "batch_size": 13}
    return lambda kind, path, **more: kind(str(path), **{**usual, **more})


def rows_of(batch):
    return sorted((x.numpy().tobytes(), label) for x, label in zip(batch["x"], batch["label"].tolist(), strict=True))


def levels_of(x):
    """Return the 8-bit values of pixels, whose level has the values around it in dequantised images."""
    return ((x + 1) * 127.5).round().to(torch.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_labels_are_those_of_the_files(kind, make, image_folder, request):
    target, fixture, column, labels = KINDS[kind]
    settings = {"image_column": column, "label_column": labels, "num_classes": 10}
    held = make(target, request.getfixturevalue(fixture), **settings)
    files = make(ImageFolder, image_folder, label_column="folders", num_classes=10)
    assert rows_of(held.split("all")) == rows_of(files.split("all"))
    streamed = make(target, request.getfixturevalue(fixture), streaming=True, shuffle_buffer=50, **settings)
    assert torch.equal(streamed.split("val")["x"], held.split("val")["x"])
    epoch = itertools.islice(streamed.train_dataloader(), 18)  # 18 batches of 13 are the 234 training images
    rows = sorted(row for batch in epoch for row in rows_of(batch))
    assert rows == rows_of(held.split("train"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_goes_on_with_the_same_batches(kind, make, request):
    target, fixture, column, labels = KINDS[kind]
    settings = {"image_column": column, "label_column": labels, "num_classes": 10, "streaming": True}
    data = make(target, request.getfixturevalue(fixture), **settings)
    whole = list(itertools.islice(data.train_dataloader(), 20))
    data = make(target, request.getfixturevalue(fixture), num_workers=2, **settings)
    data.trainer = SimpleNamespace(global_step=16, global_rank=0, world_size=1, accumulate_grad_batches=1)
    data.trainer.strategy = SimpleNamespace(root_device=torch.device("cpu"))
    for batch, other in zip(whole[16:], itertools.islice(data.train_dataloader(), 4), strict=True):
        assert all(torch.equal(batch[name], other[name]) for name in ("x", "label", "position"))


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("webdataset", ("png", "cls", "txt", 10, None)),
        ("arrow", ("image", "label", None, 10, "airplane")),
    ],
)
@pytest.mark.slow  # the reader of tar files of the library starts in seconds
def test_what_is_left_open_is_found(kind, found, request, tmp_path):
    folder = request.getfixturevalue(KINDS[kind][1])
    cfg = compose(
        "train", [f"dataset={kind}", f"dataset.path={folder}", f"dataset.cache_dir={tmp_path}", "logger=csv"]
    ).dataset
    first = cfg.class_names and cfg.class_names[0]
    assert (cfg.image_column, cfg.label_column, cfg.caption_column, cfg.num_classes, first) == found
    assert (cfg.channels, cfg.image_size, cfg.num_val) == (3, 8, 24)


def test_fields_of_json_and_names_of_classes_are_read(make, tmp_path):
    texts = [{"label": ("cat", "dog")[i % 2], "caption": f"picture {i}", "size": [8, 8]} for i in range(9)]
    members = [
        (f"./some.dir/{i}.{end}", content)
        for i in range(9)
        for end, content in (("PNG", png(i)), ("json", json.dumps(texts[i]).encode()))
    ]
    path = write(tmp_path / "a.tar", [("note", b"passed over"), *members])
    settings = {"image_column": "png", "label_column": "json.label", "caption_column": "json.caption"}
    data = make(WebDataset, path, num_classes=2, class_names=["cat", "dog"], num_val=1, **settings)
    columns = data.tables[0].columns()
    assert (columns.images, columns.labels, columns.captions) == (["png"], ["json.label"], ["json.caption"])
    for batch in (
        data.split("train"),
        next(
            iter(
                make(
                    WebDataset, path, num_classes=2, class_names=["cat", "dog"], num_val=1, streaming=True, **settings
                ).train_dataloader()
            )
        ),
    ):
        numbers = [int(text.removeprefix("picture ")) for text in batch["caption"]]
        assert batch["label"].tolist() == [number % 2 for number in numbers]
        x = ((batch["x"] + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        with Image.open(io.BytesIO(png(numbers[0]))) as opened:
            assert np.array_equal(x[0], np.asarray(opened))


def test_members_are_listed_once(make, tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "a.tar", [(f"{i}.png", png(i)) for i in range(4)])
    calls, listed = [], module.listed
    monkeypatch.setattr(module, "listed", lambda *a: (calls.append(1), listed(*a))[1])
    for _ in range(2):
        assert len(make(WebDataset, path, image_column="png", num_val=1).tables[0]) == 4
    assert len(calls) == capsys.readouterr().err.count("listing tar files") == 1
    write(path, [(f"{i}.png", png(i)) for i in range(5)])
    assert len(make(WebDataset, path, image_column="png", num_val=1).tables[0]) == 5


def test_a_sample_without_an_image_is_named_or_skipped(make, tmp_path):
    members = [(f"{i}.{end}", png(i) if end == "png" else b"3") for i in range(6) for end in ("png", "cls")]
    path = write(tmp_path / "a.tar", [one for one in members if one[0] != "4.png"])
    settings = {"image_column": "png", "num_val": 1}
    with pytest.raises(ValueError, match=r"a.tar, sample 4: png has no readable image \(it is missing\)"):
        make(WebDataset, path, **settings).split("all")
    assert len(make(WebDataset, path, max_bad=1, **settings).split("all")) == 5
    with pytest.raises(ValueError, match=r"a.tar, sample 4 has no readable image \(it is missing\)"):
        list(itertools.islice(make(WebDataset, path, streaming=True, batch_size=5, **settings).train_dataloader(), 1))


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([("../x.png", b"")], "its member '../x.png' is outside of its folder"),
        ([("/x.png", b"")], "its member '/x.png' is outside of its folder"),
        ([("x.png", None)], "its member 'x.png' is a link"),
        ([("x", b"")], "has no samples"),
    ],
)
def test_members_outside_of_their_folder_and_links_are_refused(members, text, make, tmp_path):
    path = write(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=r"a\.tar") as error:
        make(WebDataset, path)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_broken_files_and_missing_columns_are_one_line(make, tmp_path, arrow_folder):
    import datasets

    path = write(tmp_path / "a.tar", [("1.png", png(1)), ("2.png", png(2) * 100)])
    (tmp_path / "b.tar").write_bytes(path.read_bytes()[:-20_000])
    (tmp_path / "c.tar").write_bytes(b"no tar" * 100)
    (tmp_path / "d.arrow").write_bytes(b"no arrow" * 100)
    datasets.DatasetDict({"test": datasets.load_from_disk(arrow_folder)}).save_to_disk(tmp_path / "splits")
    for kind, path, settings, text in (
        (WebDataset, "a.tar", {}, "dataset.image_column=jpg: "),
        (WebDataset, "b.tar", {}, "b.tar is cut short: its member 2.png"),
        (WebDataset, "c.tar", {}, "c.tar is no readable tar file"),
        (WebDataset, "e.tar", {}, "no such file; give a webdataset file, a folder of them or a glob"),
        (Arrow, "d.arrow", {}, "d.arrow is no readable arrow file"),
        (Arrow, "splits", {}, "the folders test are splits; give one in dataset.path"),
        (Arrow, arrow_folder, {"label_column": "kind", "num_classes": 2}, "has the columns image, label"),
    ):
        with pytest.raises(ValueError) as error:
            make(kind, tmp_path / path, num_val=1, **settings)
        assert text in str(error.value), str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("option", ["arrow", "hub", "image_folder", "parquet", "webdataset"])
def test_every_setting_of_image_files_is_a_key(option):
    keys = dict(content("dataset", option))
    target = locate(keys.pop("_target_"))
    classes = [one for one in target.__mro__ if one.__module__.startswith("diffsweep.") and "__init__" in vars(one)]
    named = {name for one in classes[: classes.index(ImageData)] for name in inspect.signature(one).parameters}
    assert set(keys) == named - {"settings"}


@pytest.mark.parametrize("changes", [{"crop": "random"}, {"buckets": 2}, {"balance": "classes"}, {"dequantise": True}])
@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_training_images_reads_all_files(kind, changes, make, request):
    """Squares of 8 pixels have one crop and one bucket, so training images are those of the files, noise aside."""
    target, fixture, column, labels = KINDS[kind]
    settings = {"image_column": column, "label_column": labels, "num_classes": 10}
    data = make(target, request.getfixturevalue(fixture), **settings, **changes)
    batch = next(iter(data.train_dataloader()))
    assert (((batch["x"] + 1) * 127.5).frac().sub(0.5).abs().min() < 0.4) == ("dequantise" in changes)
    batch["x"] = levels_of(batch["x"])
    known = data.split("train")
    assert set(rows_of(batch)) <= set(rows_of({"x": levels_of(known["x"]), "label": known["label"]}))
