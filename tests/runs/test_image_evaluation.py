"""Evaluation of images that other programs made: numbers, equality of folders and arrays, statistics, bad places."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from diffsweep.configuration.compose import compose
from diffsweep.datasets import Digits
from diffsweep.errors import UserError
from diffsweep.metrics import load_digits_classifier
from diffsweep.metrics.frechet import frechet_distance
from diffsweep.pictures import to_uint8
from diffsweep.runs.cli import main
from diffsweep.runs.functions import task_of
from diffsweep.runs.image_sets import ImageSet

WORDS = ("metrics=digits", "trainer=cpu")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Return a folder with the digits as PNG files in ``fake`` and ``real``, and as arrays in files of these names."""
    folder, data = tmp_path_factory.mktemp("images"), Digits()
    for name, split in (("fake", "val"), ("real", "train")):
        pixels = to_uint8(data.split(split)["x"][:200])
        np.savez(folder / f"{name}.npz", arr_0=pixels, arr_1=np.zeros(len(pixels), np.int64))
        (folder / name / "more").mkdir(parents=True)
        for number, image in enumerate(pixels):
            place = folder / name / ("more" if number >= 150 else "") / f"{number:03d}.png"
            Image.fromarray(image[..., 0]).save(place)
    return folder


def evaluated(tmp_path, *words):
    """Evaluate images under words of the command line, and return the number and the content of metrics.json."""
    cfg = compose("evaluate", [*WORDS, *words, f"output={tmp_path}", f"paths.cache_dir={tmp_path}"])
    number = task_of("evaluate_images")(cfg)
    path = tmp_path / "metrics.json"
    return number, json.loads(path.read_text()) if path.exists() else None


def test_a_folder_and_an_array_have_the_same_numbers_as_images_in_memory(places, tmp_path, capsys):
    first, content = evaluated(tmp_path / "a", f"images={places / 'fake'}", f"reference={places / 'real'}")
    second, other = evaluated(tmp_path / "b", f"images={places / 'fake.npz'}", f"reference={places / 'real.npz'}")
    assert other == content
    assert first == second == content["metrics"]["fid"]
    data, classifier = Digits(), load_digits_classifier()
    fake, real = (classifier(data.split(split)["x"][:200])[0] for split in ("val", "train"))
    assert first == pytest.approx(frechet_distance(fake, real), rel=1e-6)
    assert {"is", "kid", "precision", "recall"} <= content["metrics"].keys()
    protocol = content["protocol"]
    assert protocol["num_samples"] == 200
    assert protocol["reference"].startswith("200 images ")
    printed = capsys.readouterr().out
    for name in ("metrics.json", "evaluation.yaml", "grid.png"):
        assert (tmp_path / "a" / name).is_file()
        assert name in printed


def test_other_images_as_reference_are_another_protocol(places, tmp_path):
    _, content = evaluated(tmp_path / "a", f"images={places / 'fake'}", f"reference={places / 'real'}")
    _, same = evaluated(tmp_path / "b", f"images={places / 'fake'}", f"reference={places / 'fake'}")
    assert same["metrics"]["fid"] == pytest.approx(0, abs=1e-4)
    assert same["metrics"]["precision"] == same["metrics"]["recall"] == 1
    assert same["protocol_id"] != content["protocol_id"]


def test_written_statistics_are_a_reference(places, tmp_path):
    stats = tmp_path / "stats.npz"
    nothing, missing = evaluated(tmp_path / "a", f"images={places / 'real'}", f"statistics={stats}")
    assert nothing is missing is None
    expected, _ = evaluated(tmp_path / "b", f"images={places / 'fake'}", f"reference={places / 'real'}")
    number, content = evaluated(tmp_path / "c", f"images={places / 'fake'}", f"reference={stats}")
    assert number == pytest.approx(expected, rel=1e-6)
    assert content["metrics"].keys() == {"fid", "is"}
    assert content["protocol"]["reference"].startswith("statistics ")
    with np.load(stats) as arrays, np.load(places / "real.npz") as images:
        both = {**arrays, **images}  # as the reference batches of guided-diffusion
    np.savez(tmp_path / "both.npz", **both)
    number, content = evaluated(tmp_path / "d", f"images={places / 'fake'}", f"reference={tmp_path / 'both.npz'}")
    assert number == pytest.approx(expected, rel=1e-6)
    assert {"precision", "recall", "kid"} <= content["metrics"].keys()


def test_images_of_many_sizes_are_in_batches_of_one(tmp_path):
    for number, size in enumerate([(4, 4), (4, 4), (6, 5), (4, 4)]):
        Image.new("RGB" if number else "L", size, number * 10).save(tmp_path / f"{number}.png")
    images = ImageSet("images", str(tmp_path))
    assert [tuple(batch.shape) for batch in images.batches(8)] == [
        (1, 1, 4, 4),
        (1, 3, 4, 4),
        (1, 3, 5, 6),
        (1, 3, 4, 4),
    ]
    grey = ImageSet("images", str(tmp_path), channels=1)
    assert [len(batch) for batch in grey.batches(8)] == [2, 1, 1]
    assert images.fingerprint != grey.fingerprint
    colour = ImageSet("images", str(tmp_path), channels=3)
    assert torch.equal(next(colour.batches(1)), torch.full((1, 3, 4, 4), -1.0))


@pytest.mark.slow
def test_places_without_images_are_refused_in_one_line(places, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"\x89PNG no image")
    Image.new("L", (9, 9)).save(tmp_path / "large.png")
    (tmp_path / "large").mkdir()
    (tmp_path / "large.png").rename(tmp_path / "large" / "a.png")
    np.savez(tmp_path / "floats.npz", arr_0=np.zeros((3, 8, 8, 1)))
    np.savez(tmp_path / "other.npz", x=np.zeros((3, 8, 8, 1), np.uint8))
    (tmp_path / "text.npz").write_text("none")
    (tmp_path / "text.txt").write_text("none")
    cases = {
        "none": "no such folder or file",
        "empty": "the folder has no images",
        "broken": "a.png is no image that can be read",
        "large": r"an image has the shape \(1, 9, 9\), and these metrics measure images of \(1, 8, 8\)",
        "floats.npz": "arr_0 is float64",
        "other.npz": "has the arrays x, and images are needed as arr_0",
        "text.npz": "is no .npz file that can be read",
        "text.txt": "is neither a folder nor an .npz file",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message) as refused:
            evaluated(tmp_path / "out", f"images={tmp_path / name}", f"reference={places / 'real'}")
        assert "\n" not in str(refused.value)
        with pytest.raises(UserError, match="reference" if name in ("none", "empty") else message):
            evaluated(tmp_path / "out", f"images={places / 'fake'}", f"reference={tmp_path / name}")
    for words, message in (
        ((), "reference is missing"),
        ((f"reference={places / 'real'}", "metrics=none"), "metrics=none leaves nothing"),
        ((f"reference={places / 'real'}", "metrics=classifier"), r"metrics\.features\.model\.run is missing"),
        ((f"reference={places / 'real'}", "metrics=moving_digits"), "measures clips, and images= has images"),
        (("statistics=stats.txt",), "statistics are written into an .npz file"),
        ((f"reference={places / 'real'}", "sampler=ddim"), "sampler"),
    ):
        with pytest.raises(UserError, match=message):
            evaluated(tmp_path / "out", f"images={places / 'fake'}", *words)


def test_places_are_looked_at_before_weights_that_take_a_download(places, tmp_path):
    words = ["metrics=inception", "metrics.features.path=none.pt", f"output={tmp_path}"]
    for images, reference, message in (
        ("missing", "real", "images=.*no such folder or file"),
        ("fake", "missing", "reference=.*no such folder or file"),
        ("fake", "real", "none.pt"),
    ):
        cfg = compose("evaluate", [*words, f"images={places / images}", f"reference={places / reference}"])
        with pytest.raises((UserError, OSError), match=message):
            task_of("evaluate_images")(cfg)


def test_the_command_line_chooses_the_form_by_its_keys(places, tmp_path, monkeypatch, capsys):
    words = [*WORDS, f"images={places / 'fake.npz'}", f"output={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words, f"reference={places / 'real.npz'}"])
    main("evaluate")
    assert "200 images of" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "-m", *words])
    with pytest.raises(SystemExit, match="2"):
        main("evaluate")
    assert "evaluate.py runs once" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--help", "images"])
    main("evaluate")
    assert "statistics" in capsys.readouterr().out
