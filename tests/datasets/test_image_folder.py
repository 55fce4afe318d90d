"""A folder of images: classes, captions, odd names, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffsweep.configuration.compose import compose
from diffsweep.configuration.following import print_once
from diffsweep.configuration.preflight import preflight
from diffsweep.datasets import ImageFolder, Parquet
from diffsweep.errors import UserError

SIZE = 8
NAMES = ("a, b/x 1.png", "a, b/é.PNG", "chien/z=1.png", "chien/deep/y.png", "chien/deep/y2.png")
CLASSES = ["a, b", "chien", "chien/deep"]


def pixels(number, size=SIZE, channels=3):
    shape = (size, size) if channels == 1 else (size, size, channels)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Return a function that writes images of noise under names, and returns their folder."""
    top = tmp_path / "my photos, 2024"

    def write(names=NAMES, **more):
        for number, name in enumerate(names):
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(number, **more)).save(top / name)
        return top

    return write


@pytest.fixture
def make(tmp_path):
    return lambda path, **more: ImageFolder(
        str(path), **{"image_size": SIZE, "num_val": 1, "cache_dir": str(tmp_path / "cache"), **more}
    )


def composed(tmp_path, path, *more):
    overrides = ["dataset=image_folder", f"dataset.path='{path}'", f"dataset.cache_dir={tmp_path / 'cache'}", *more]
    return compose("train", ["logger=csv", *overrides])


def in_bytes(x):
    return ((x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def test_images_have_the_classes_of_their_folders_and_the_pixels_of_their_files(folder, make):
    data = make(folder(), label_column="folders", num_classes=3)
    whole = data.split("all")
    ordered = sorted(range(len(NAMES)), key=lambda number: NAMES[number])
    rows = [ordered[row] for row in data.order["all"].tolist()]
    assert [CLASSES[label] for label in whole["label"].tolist()] == [NAMES[row].rpartition("/")[0] for row in rows]
    assert np.array_equal(in_bytes(whole["x"]), np.stack([pixels(row) for row in rows]))


def test_a_folder_gives_the_pixels_of_the_same_files_in_parquet(folder, make, tmp_path, write_parquet):
    top = folder()
    files = sorted(NAMES)
    columns = {"img": [(top / name).read_bytes() for name in files], "label": [0, 0, 2, 2, 1]}
    path = write_parquet(tmp_path / "same.parquet", columns, CLASSES)
    other = Parquet(str(path), "img", image_size=SIZE, num_val=1, cache_dir=str(tmp_path / "cache"))
    assert torch.equal(make(top).split("all")["x"], other.split("all")["x"])


@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt"])
def test_captions_are_read_from_metadata_and_text_files(folder, make, kind):
    top = folder()
    captions = {name: f'a "picture", of {name}' for name in NAMES}
    if kind == "jsonl":
        lines = [json.dumps({"file_name": name, "text": caption}) for name, caption in captions.items()]
        (top / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif kind == "csv":
        quoted = [",".join('"' + text.replace('"', '""') + '"' for text in row) for row in captions.items()]
        (top / "metadata.csv").write_text("\n".join(["file_name,text", *quoted]), encoding="utf-8")
    else:
        for name, caption in captions.items():
            (top / name).with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
    data = make(top, caption_column="txt" if kind == "txt" else "text")
    names = sorted(NAMES)
    assert data.split("all")["caption"] == [captions[names[row]] for row in data.order["all"].tolist()]


def test_captions_are_read_once(folder, make, monkeypatch):
    top = folder()
    for name in NAMES:
        (top / name).with_suffix(".txt").write_text(name)
    data, read = make(top, caption_column="txt"), []
    values = data.tables[0].values
    monkeypatch.setattr(data.tables[0], "values", lambda column: read.append(column) or values(column))
    assert all(data.split(split)["caption"] for split in ("train", "val", "all"))
    assert read == ["txt"]


def test_what_is_left_open_is_found_and_printed(folder, tmp_path, capsys):
    top = folder()
    for name in NAMES:
        (top / name).with_suffix(".txt").write_text(name)
    print_once.cache_clear()  # what other tests have printed
    cfg = composed(tmp_path, top)
    found = {key: cfg.dataset[key] for key in ("label_column", "num_classes", "class_names", "caption_column")}
    assert found == {"label_column": "folders", "num_classes": 3, "class_names": CLASSES, "caption_column": "txt"}
    assert (cfg.dataset.channels, cfg.dataset.image_size, cfg.dataset.num_val) == (3, SIZE, 1)
    assert cfg.choices.metrics == "classifier"
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        f"dataset.path={top}: 5 images, 3 classes of folders: 'a, b', chien, chien/deep, captions of txt, 3 x 8 x 8, "
        "1 held out"
    )
    assert second.startswith("metrics=classifier: metrics=digits does not fit dataset=image_folder (3 x 8 x 8)")


def test_missing_data_choose_nothing(tmp_path, capsys):
    print_once.cache_clear()
    cfg = composed(tmp_path, tmp_path / "nowhere")
    assert (cfg.choices.metrics, capsys.readouterr().err) == ("digits", "")


def test_what_is_typed_stays(folder, tmp_path):
    cfg = composed(tmp_path, folder(), "dataset.label_column=none", "dataset.channels=1", "metrics=digits")
    assert cfg.dataset.label_column is None
    assert cfg.dataset.num_classes is None
    assert (cfg.dataset.channels, cfg.choices.metrics) == (1, "digits")


def test_sizes_follow_the_images(folder, tmp_path):
    def found(names, **more):
        keys = ("label_column", "caption_column", "channels", "image_size", "num_classes", "num_val")
        values, _ = ImageFolder.found({"path": str(folder(names, **more)), **dict.fromkeys(keys)})
        return values["channels"], values["image_size"]

    assert found(["g.png"], size=30, channels=1) == (1, 28)
    assert found(["g.png"]) == (3, SIZE)
    assert found(["g.png", "h.png"], size=300, channels=1) == (1, 64)
    cfg = composed(tmp_path, folder(["g.png"]))  # one in colour, one grey
    assert (cfg.dataset.channels, cfg.dataset.image_size, cfg.choices.metrics) == (3, SIZE, "none")


def test_one_folder_alone_is_no_class(folder, tmp_path, capsys):
    cfg = composed(tmp_path, folder(["only/a.png", "only/b.png"]))
    assert cfg.dataset.num_classes is None
    assert "no classes, since folders has one alone, such as only" in capsys.readouterr().err


def test_the_fingerprint_follows_names_contents_and_captions(folder, make):
    top = folder()
    prints = [make(top).fingerprint]
    (top / NAMES[0]).with_suffix(".txt").write_text("a caption")
    prints.append(make(top).fingerprint)
    (top / NAMES[0]).rename(top / "chien/moved.png")
    prints.append(make(top).fingerprint)
    Image.fromarray(pixels(99)).save(top / NAMES[3])
    prints.append(make(top).fingerprint)
    assert len(set(prints)) == 4
    assert make(top).fingerprint == prints[-1]


def test_links_to_a_folder_above_have_no_end_and_are_not_followed_twice(folder, make):
    top = folder()
    (top / "loop").symlink_to(top)
    assert len(make(top).tables[0]) == len(NAMES)


@pytest.mark.parametrize(
    ("files", "settings", "parts"),
    [
        ({}, {}, ["the folder and its subfolders have no images (.avif, .bmp"]),
        ({"train/a.png": None, "test/b.png": None}, {}, ["the folders test, train are splits", "dataset.val_path"]),
        ({"a.png": None, "b/c.png": None}, {"label_column": "folders", "num_classes": 1}, ["a.png is in no subfolder"]),
        (
            {"a.png": None, "b.png": None, "metadata.csv": "name\na.png"},
            {"caption_column": "text"},
            ["metadata.csv has no column"],
        ),
        (
            {"a.png": None, "b.png": None, "metadata.jsonl": "{"},
            {"caption_column": "text"},
            ["metadata.jsonl, line 1 is no JSON"],
        ),
        (
            {"a.png": None, "b.png": None, "metadata.jsonl": '{"file_name": "x.png", "text": "x"}'},
            {"caption_column": "text"},
            ["metadata.jsonl, line 1: file_name=x.png is no image of the folder"],
        ),
        (
            {"a.png": None, "b.png": None},
            {"caption_column": "text"},
            ["dataset.caption_column=text", "has folders, txt"],
        ),
    ],
)
def test_the_message_of_a_mistake_is_one_line_and_names_the_file(tmp_path, make, files, settings, parts):
    for name, content in files.items():
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.fromarray(pixels(0)).save(tmp_path / "top" / name)
        else:
            (tmp_path / "top" / name).write_text(content)
    (tmp_path / "top").mkdir(exist_ok=True)
    with pytest.raises(ValueError) as error:
        make(tmp_path / "top", **settings).split("all")
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_a_missing_path_is_one_line_of_the_command(tmp_path):
    with pytest.raises(UserError, match=r"dataset.path=.*nowhere: no such folder; give a folder of images"):
        preflight(composed(tmp_path, tmp_path / "nowhere", "conditioning=class"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"is a file; give a folder"):
        preflight(composed(tmp_path, tmp_path / "file", "metrics=none"))


def test_unreadable_files_of_a_folder_are_named_or_skipped(folder, make):
    top = folder()
    (top / NAMES[0]).write_bytes(b"")
    with pytest.raises(ValueError, match=r"x 1.png has no readable image \(it is empty, 0 bytes\); dataset.max_bad=N"):
        make(top).split("all")
    assert len(make(top, max_bad=1).split("all")) == len(NAMES) - 1
