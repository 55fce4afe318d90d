"""Files that are broken, foreign or oddly named: each is skipped and counted, or named in one line, and none hangs."""

import os
import time

import numpy as np
import pytest
from image_files import claiming, encoded
from PIL import Image

from diffsweep.datasets import Hub, ImageFolder, Parquet
from diffsweep.datasets.hub import reachable
from diffsweep.files import ContentError, DiskFull
from diffsweep.runs.cli import _print_error
from diffsweep.shell import one_line

GOOD = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)))
LEFT_OPEN = ("label_column", "caption_column", "channels", "image_size", "num_classes", "class_names", "num_val")


@pytest.fixture
def folder(tmp_path):
    """Return a function that writes four images in two classes, and further files by name, into a new folder."""

    def write(**files):
        top = tmp_path / "top"
        for name, content in {**{f"{kind}/{n}.png": GOOD for kind in "ab" for n in (0, 1)}, **files}.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return top

    return write


@pytest.fixture
def read(tmp_path):
    """Return a function that makes a dataset as the commands do, with what is left open found, and reads its images."""

    def made(kind=ImageFolder, **typed):
        settings = {**dict.fromkeys(LEFT_OPEN), **({} if kind is ImageFolder else {"image_column": None}), **typed}
        values, text = kind.found(settings)
        data = kind(**{**settings, **values, "cache_dir": str(tmp_path / "cache")})
        return data, len(data.split("all")), text

    return made


BROKEN = {
    "no image": (b"hello", "it is no image of a known format"),
    "cut short": (GOOD[: len(GOOD) // 2], "truncated"),
    "empty": (b"", "it is empty, 0 bytes"),
    "huge": (claiming(60_000, 60_000), "it claims 3600000000 pixels"),
}


@pytest.mark.parametrize("which", BROKEN)
def test_a_broken_image_is_named_or_skipped_and_counted(folder, read, capsys, which):
    content, reason = BROKEN[which]
    path = str(folder(**{"a/0.png": content}))
    with pytest.raises(ContentError) as error:
        read(path=path)
    assert "a/0.png has no readable image (" in str(error.value)
    assert reason in str(error.value)
    assert "dataset.max_bad=N" in str(error.value)
    assert read(path=path, max_bad=1)[1] == 3
    assert "1 of 4 images cannot be read and are skipped (dataset.max_bad=1)" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["a pipe", "a link to itself", "a link to nothing"])
def test_what_is_no_regular_file_is_never_opened(folder, read, kind):
    """Reading a pipe would wait for ever."""
    top = folder()
    if kind == "a pipe":
        os.mkfifo(top / "a/x.png")
    else:
        os.symlink("x.png" if kind == "a link to itself" else "gone.png", top / "a/x.png")
    with pytest.raises(ContentError, match=r"a/x.png has no readable image \(.*\); dataset.max_bad=N"):
        read(path=str(top))
    assert read(path=str(top), max_bad=1)[1] == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="the system lets this user read everything")
def test_a_folder_without_permission_is_named(folder, read):
    top = folder()
    os.chmod(top / "a", 0)
    try:
        with pytest.raises(ContentError, match=r"the folder .*top/a cannot be read \(Permission denied\)"):
            read(path=str(top))
    finally:
        os.chmod(top / "a", 0o755)


def test_a_folder_that_cannot_be_listed_is_named(folder, read, monkeypatch):
    """As the system answers without permission, also where the tests' user has every permission."""
    top, scan = folder(), os.scandir

    def refuse(path):
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ContentError, match=r"the folder .*top/a cannot be read \(Permission denied\)"):
        read(path=str(top))


META = {
    "a broken line": (
        "metadata.jsonl",
        '{"file_name": "a/0.png", "text": "x"}\n{x',
        "metadata.jsonl, line 2 is no JSON",
    ),
    "no name": ("metadata.jsonl", '{"text": "x"}', "metadata.jsonl, line 1 has no file_name"),
    "a list": ("metadata.jsonl", "[1]", "metadata.jsonl, line 1 has no file_name"),
    "no such file": ("metadata.jsonl", '{"file_name": "a/9.png"}', "file_name=a/9.png is no image of the folder"),
    "a file elsewhere": ("metadata.jsonl", '{"file_name": "../x.png"}', "file_name=../x.png is no image of the folder"),
    "another encoding": ("metadata.jsonl", "f\xfcr".encode("latin-1"), "metadata.jsonl is no text in UTF-8"),
    "a text in another": ("a/0.txt", "f\xfcr".encode("latin-1"), "a/0.txt is no text in UTF-8"),
    "an empty table": ("metadata.csv", "", "metadata.csv has no column file_name"),
    "more cells": ("metadata.csv", "file_name,text\na/0.png,x,y", "metadata.csv, line 2 has more cells"),
    "a huge cell": ("metadata.csv", f"file_name,text\na/0.png,{'x' * 200_000}", "is no CSV (field larger"),
    "labels of lists": ("metadata.jsonl", '{"file_name": "a/0.png", "label": [1]}', "a/0.png has [1], and a label is"),
    "fractions": ("metadata.jsonl", '{"file_name": "a/0.png", "label": 0.5}', "a/0.png has 0.5, and a label is"),
    "some captions": ("a/0.txt", "x", "a/1.png has no caption; give each image one"),
    "some labels": (
        "metadata.jsonl",
        '{"file_name": "a/0.png", "label": 0}\n{"file_name": "a/1.png", "label": 1}',
        "b/0.png has null; give it a label, or set dataset.label_column=none",
    ),
}


@pytest.mark.parametrize("which", META)
def test_a_mistake_in_metadata_is_never_passed_over(folder, read, which):
    """Also where nothing is typed: without the file's labels or captions another model would be trained."""
    name, content, part = META[which]
    with pytest.raises(ContentError) as error:
        read(path=str(folder(**{name: content})))
    assert part in str(error.value)


def test_captions_may_have_lines_and_must_be_texts(folder, read):
    rows = "".join(f'{kind}/{n}.png,"one\ntwo"\n' for kind in "ab" for n in (0, 1))
    assert (
        read(path=str(folder(**{"metadata.csv": f"file_name,text\n{rows}"})))[0].split("all")["caption"]
        == ["one\ntwo"] * 4
    )
    top = folder(**{"metadata.csv": "file_name,caption\na/0.png,1\n"})
    with pytest.raises(ContentError, match=r"a/0.png has 1, which is no text"):
        read(path=str(top), caption_column="caption")


def test_one_image_and_one_class(folder, read):
    top = folder()
    for name in ("a/1.png", "b/0.png", "b/1.png"):
        (top / name).unlink()
    with pytest.raises(ValueError, match="has one image; at least two are needed"):
        read(path=str(top))
    (top / "a/1.png").write_bytes(GOOD)
    data, _, text = read(path=str(top))
    assert data.num_classes is None
    assert "no classes, since folders has one alone, such as a" in text


def test_names_are_shown_without_breaking_the_line_or_commanding_the_terminal(folder, read, capsys):
    top = folder(**{"a/two\nlines \x1b[31mred, é.png": b"x"})
    with pytest.raises(ContentError) as error:
        read(path=str(top))
    assert _print_error(error.value) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "a/two\\nlines \\x1b[31mred, é.png has no readable image" in line
    assert one_line("a\tb") == "a\\tb"


def test_an_error_of_the_system_names_its_file(capsys):
    assert _print_error(PermissionError(13, "Permission denied", "out/x")) == 1
    assert capsys.readouterr().err.startswith("error: out/x: Permission denied; check the path")


def test_an_error_of_a_full_disk_keeps_its_own_words(capsys):
    assert _print_error(DiskFull("a.ckpt cannot be written, the disk is full: it needs 9 bytes")) == 1
    assert capsys.readouterr().err == "error: a.ckpt cannot be written, the disk is full: it needs 9 bytes\n"


@pytest.mark.parametrize("kind", [Parquet, Hub])
def test_a_parquet_file_that_is_cut_or_damaged_is_named(kind, read, tmp_path, write_parquet):
    (tmp_path / "some").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    file = write_parquet(tmp_path / "some/train.parquet", {"img": [Image.fromarray(x) for x in noise]})
    place = {"path": str(file)} if kind is Parquet else {"name": str(file.parent)}
    assert read(kind, **place)[1] == 64
    whole = file.read_bytes()
    third = len(whole) // 3
    for content in (whole[: 2 * third], whole[:third] + bytes(third) + whole[2 * third :], b""):
        file.write_bytes(content)
        with pytest.raises(ContentError, match=r"train.parquet|split train cannot be loaded") as error:
            read(kind, **place)
        assert "\n" not in str(error.value)


def test_a_hub_that_does_not_answer_is_known_in_seconds(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # a port at which nothing listens
    begin = time.perf_counter()
    assert not reachable("http://127.0.0.1:9")
    with pytest.raises(ContentError, match=r"dataset.name=some/name: .*:9 cannot be reached; HF_HUB_OFFLINE=1"):
        Hub("some/name")
    assert time.perf_counter() - begin < 5


def test_a_hub_that_answers_is_reachable():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        assert reachable(f"http://127.0.0.1:{server.getsockname()[1]}")
