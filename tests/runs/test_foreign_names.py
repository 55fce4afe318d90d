"""Names that come with data or runs: of classes, captions, files and folders; and keys that hold secrets."""

import csv
import json

import numpy as np
import pytest
from image_files import encoded
from omegaconf import OmegaConf
from PIL import Image

from diffsweep.comparison.tables import aligned
from diffsweep.configuration.check import check
from diffsweep.configuration.compose import compose
from diffsweep.configuration.secret_keys import SECRET_KEY
from diffsweep.errors import UserError

CLEARS = "cat\x1b[2J\x1b]0;owned\x07"  # clears a terminal and changes its title
FORGES = "dog\nerror: disk is full"
TABBED = "a red\tball\n<script>alert(1)</script>"


@pytest.fixture
def images(tmp_path):
    """A folder of two classes whose names are no plain text, with captions that are not either."""
    numbers = np.random.default_rng(0)
    for name in (CLEARS, FORGES):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(6):
            picture = Image.fromarray(numbers.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            (tmp_path / "images" / name / f"{i}.png").write_bytes(encoded(picture))
    rows = [{"file_name": f"{name}/{i}.png", "text": TABBED} for name in (CLEARS, FORGES) for i in range(6)]
    (tmp_path / "images" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path / "images"


@pytest.mark.slow
def test_names_of_classes_and_captions_are_shown_and_do_nothing(images, command, fast, tmp_path):
    data = ("dataset=image_folder", f"dataset.path={images}", "dataset.num_val=2", "dataset.image_size=8")
    run = tmp_path / "run"
    done = command(
        *("train", *fast, *data, "model=classifier_free", "metrics=none", "dataset.batch_size=4"),
        *("trainer.max_steps=1", f"paths.run_dir={run}"),
    )
    assert done.code == 0, done.err
    assert r"cat\x1b[2J\x1b]0;owned\x07, dog\nerror: disk is full" in done.err + done.out
    wrong = command("sample", f"run={run}", "conditioning.labels=[kat]", "num_samples=1")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    drawn = command("sample", f"run={run}", "num_samples=4", f"output={tmp_path / 'drawn'}", "sampler.steps=1")
    assert drawn.code == 0, drawn.err
    for text in (done.out, done.err, wrong.err, drawn.out, drawn.err):
        assert not {each for each in text if not each.isprintable()} - {"\n"}
    files = [path for path in tmp_path.rglob("*") if path.is_file() and images not in path.parents]
    assert all(path.name.isprintable() for path in files)


@pytest.mark.slow
def test_captions_keep_to_their_row_and_are_learned(tmp_path, images, command, fast):
    """The vocabulary is found in the captions, and ``requests.tsv`` has a row for each sample."""
    data = ("dataset=image_folder", f"dataset.path={images}", "dataset.num_val=2", "dataset.image_size=8")
    words = ("conditioning=text", "metrics=none", "dataset.batch_size=4", "trainer.max_steps=1")
    run = tmp_path / "run"
    done = command("train", *fast, *data, *words, f"paths.run_dir={run}")
    assert done.code == 0, done.err
    assert "6 words, at most 7 in a caption" in done.err
    assert OmegaConf.load(run / "config.yaml").dataset.vocabulary == ["1", "a", "alert", "ball", "red", "script"]
    drawn = command("sample", f"run={run}", "num_samples=3", f"output={tmp_path / 'drawn'}", "sampler.steps=1")
    assert drawn.code == 0, drawn.err
    with (tmp_path / "drawn" / "requests.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(rows) == 4
    assert {len(row) for row in rows} == {len(rows[0])}


def test_words_of_captions_are_found_if_they_are_learned(tmp_path, images):
    data = ["dataset=image_folder", f"dataset.path={images}", "dataset.num_val=2", "metrics=none"]
    learned = compose("train", [*data, "conditioning=text"])
    assert learned.conditioning.encoder.max_length == 7
    assert list(learned.conditioning.encoder.vocabulary) == ["1", "a", "alert", "ball", "red", "script"]
    assert compose("train", data).dataset.vocabulary is None


def test_tables_show_control_characters():
    assert aligned(("name",), [(CLEARS,), ("x",)]).splitlines()[1] == r"  cat\x1b[2J\x1b]0;owned\x07"


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nb"])
def test_an_error_is_one_line_whatever_it_quotes(name, command):
    done = command("train", "dataset=image_folder", f"dataset.path='{name}'")
    assert done.code == 2
    *others, last = done.err.splitlines()
    assert last.startswith("error: dataset.path=")
    assert last.isprintable()
    assert not any("error" in line for line in others)


@pytest.mark.parametrize("key", ["dataset.api_key", "model.hub_token", "sampler.options.password", "token"])
def test_a_secret_in_a_configuration_is_refused_without_being_shown(key, monkeypatch):
    cfg = OmegaConf.create({"trust": []})
    OmegaConf.update(cfg, key, "hush-4711", force_add=True)
    with pytest.raises(UserError, match="is named like a secret") as refused:
        check(cfg)
    assert "hush" not in str(refused.value)
    monkeypatch.setenv("KEY", "hush-4711")
    OmegaConf.update(cfg, key, "${oc.env:KEY}")
    check(cfg)


@pytest.mark.parametrize("key", ["class_token", "num_tokens", "tokens", "key", "token_mask", "secretary"])
def test_other_keys_are_no_secrets(key):
    assert not SECRET_KEY.fullmatch(key)
