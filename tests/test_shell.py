"""What is printed to be pasted means the same after the shell and Hydra have read it."""

import shlex
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from diffsweep import shell
from diffsweep.configuration.jobs import jobs

NAMES = [
    "run",
    "2026-11-28_15-12-26_a3d3",
    "outputs/train/2026-11-28",
    "my runs, a=b (1)",
    "it's",
    'so-called "run"',
    """both ' and " of them""",
    "$HOME",
    "cost $5",
    "`ls`",
    "a;b&c|d>e",
    "[1,2]",
    "{a: b}",
    "a\\b",
    "ends in \\",
    'back\\"slash',
    "tab\tinside",
    "clears\x1b[2J the screen",
    "it's\\ \x1b]0;title\x07",
    "*.py",
    "~",
    "#1",
    "100%",
    "!important",
    "12",
    "1e3",
    ".5",
    "null",
    "True",
    "nan",
    "-inf",
    "choice(a,b)",
    "a:b",
    "user@host",
    "grün",
    " spaces around ",
]


def words_of(line):
    """Return the words of a printed line, as a shell reads it."""
    if "$'" not in line:
        return shlex.split(line)
    printed = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout
    return printed.decode().split("\0")[:-1]


def read(line):
    """Return the values of the overrides in a printed line, as a shell and then Hydra read it."""
    _, _, *overrides = words_of(line)
    return {override.key_or_group: override.value() for override in OverridesParser.create().parse_overrides(overrides)}


@pytest.mark.parametrize("place", ["", "below", "elsewhere"])
@pytest.mark.parametrize("name", NAMES)
def test_a_printed_command_gives_back_the_path(name, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = {"": Path(name), "below": tmp_path / name, "elsewhere": Path("/") / name}[place]
    expected = {"": name, "below": name, "elsewhere": f"/{name}"}[place]
    value = read(shell.command("train.py model=ldm autoencoder.run", path))
    assert Path(str(value["autoencoder.run"])) == Path(expected)
    assert isinstance(value["autoencoder.run"], str)
    assert value["model"] == "ldm"
    assert [Path(word) for word in words_of(f"ls {shell.shown(path)}")[1:]] == [Path(expected)]
    assert shell.shown(path).isprintable()


@pytest.mark.parametrize("name", NAMES)
def test_an_override_that_is_printed_is_one_job_of_a_sweep(name):
    (word,) = words_of(shell.typed("run", name))
    assert jobs([word]) == [[word]]


def test_plain_paths_are_not_quoted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shell.shown(tmp_path / "a" / "b") == "a/b"
    assert shell.shown("/elsewhere") == "/elsewhere"
    assert shell.typed("resume", tmp_path / "outputs" / "train" / "2026-11-28_15-12-26_a3d3") == (
        "resume=outputs/train/2026-11-28_15-12-26_a3d3"
    )


def test_a_command_names_its_script_from_where_the_user_is(tmp_path, monkeypatch):
    monkeypatch.chdir(shell.SCRIPTS.parent)
    assert shell.command("sample.py run", "/a/run") == "python src/sample.py run=/a/run"
    monkeypatch.chdir(tmp_path)
    assert shell.command("sample.py run", "/a/run") == f"python {shell.SCRIPTS / 'sample.py'} run=/a/run"


def test_control_characters_of_foreign_texts_are_visible():
    assert shell.one_line("grün, 猫") == "grün, 猫"
    assert shell.one_line("a\x1b[2Jb\nc\x9b\u202e") == r"a\x1b[2Jb\nc\x9b\u202e"
