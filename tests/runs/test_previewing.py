"""What preview.py shows is what training gets: its numbers are those of the data, and its noise that of the process."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffsweep import compose
from diffsweep.configuration.build import build_data
from diffsweep.datasets import InMemory
from diffsweep.datasets.statistics import measure
from diffsweep.diffusion import Noise
from diffsweep.errors import UserError
from diffsweep.pictures.lettering import legible
from diffsweep.runs.previewing import noised, preview, times_of, words_of
from diffsweep.schedules import EDM, Cosine

BALANCED = "dataset.balance=classes"


@pytest.fixture
def previewed(tmp_path):
    """``previewed(words)`` runs the command in this process, and returns its folder and the content of preview.json."""

    def previewed(*words):
        folder = tmp_path / "preview"
        cfg = compose("preview", [*words, f"output={folder}", "num_times=3", "num_noised=2"])
        assert preview(cfg) == folder
        return folder, json.loads((folder / "preview.json").read_text())

    return previewed


def test_statistics_are_those_of_numpy_and_duplicates_are_counted():
    x = torch.randn(300, 2, 4, 4)
    x[7] = x[250] = x[3]
    measured = measure(InMemory({"x": x}), None)
    assert measured.count == 300
    np.testing.assert_allclose(measured.mean, x.numpy().mean((0, 2, 3), dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(measured.std, x.numpy().std((0, 2, 3), dtype=np.float64), rtol=1e-9)
    assert measured.minimum == x.amin((0, 2, 3)).tolist()
    assert measured.maximum == x.amax((0, 2, 3)).tolist()
    assert measured.duplicates == pytest.approx(2 / 300)
    others = measure(InMemory({"x": torch.cat([x[3:4], torch.randn(3, 2, 4, 4)])}), None)
    assert others.among(measured) == 0.25


def test_statistics_of_some_samples_take_them_evenly():
    x = torch.arange(100.0)[:, None, None, None]
    measured = measure(InMemory({"x": x}), 10)
    assert measured.count == 10
    assert measured.mean == [45.0]
    assert measured.maximum == [90.0]


def test_noised_samples_have_the_variance_of_the_process():
    x_0 = 0.4 * torch.randn(64, 1, 32, 32, dtype=torch.float64) + 0.1
    schedule, times = Cosine(), torch.linspace(0, 1, 5, dtype=torch.float64)
    x_t = noised(schedule, x_0, times, Noise(0, torch.arange(64)))
    alpha, sigma = schedule(times)
    for k in range(5):  # 65,536 numbers: the standard error of the variance is 0.6 %
        assert x_t[k].var().item() == pytest.approx((alpha[k] ** 2 * x_0.var() + sigma[k] ** 2).item(), rel=0.03)
    torch.testing.assert_close(x_t[0], x_0)
    eps = (x_t[2] - alpha[2] * x_0) / sigma[2]
    torch.testing.assert_close((x_t[3] - alpha[3] * x_0) / sigma[3], eps)  # one eps at all times


def test_times_are_spaced_in_t_or_in_log_snr():
    schedule = EDM()
    assert times_of(schedule, 5, "t").tolist() == [0, 0.25, 0.5, 0.75, 1]
    times = times_of(schedule, 7, "log_snr")
    inner = schedule.log_snr(times[1:-1])
    torch.testing.assert_close(inner.diff(), inner.diff()[:1].expand(4))
    assert times[0] == 0
    assert times[-1] == 1
    assert (times.diff() > 0).all()


def test_words_name_the_class_and_the_caption_once():
    batch = {"label": torch.tensor([1, 0]), "caption": ["a red Square", "a thing"]}
    assert words_of(batch, ["circle", "square"]) == ["a red Square", "circle: a thing"]
    assert words_of({"label": torch.tensor([3])}, None) == ["class 3"]
    assert words_of({}, None) == []


def test_a_folder_is_previewed_with_its_files_that_are_no_images(previewed, tmp_path, capsys):
    for name, value in (("a", 0), ("b", 255)):
        for i in range(6):
            path = tmp_path / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)
    (tmp_path / "photos" / "a" / "broken.png").write_bytes(b"nothing")
    words = (f"dataset.path={tmp_path / 'photos'}", f"dataset.cache_dir={tmp_path / 'cache'}")
    folder, found = previewed("dataset=image_folder", *words, "dataset.max_bad=1", "dataset.num_val=1", BALANCED)
    assert {path.name for path in folder.iterdir()} == {"batch.png", "noised.png", "classes.png", "preview.json"}
    assert [Path(where).name for where, _ in found["skipped"]] == ["broken.png"]
    counts, train = found["classes"], found["statistics"]["train"]
    assert sum(count[split] for count in counts.values() for split in ("train", "val")) == 12
    black, white = counts["a"]["train"], counts["b"]["train"]
    assert train["mean"] == pytest.approx([(white - black) / (white + black)] * 3)
    assert train["duplicates"] == pytest.approx(1 - 2 / train["count"])
    assert found["held_out_in_training"] == 1
    out = capsys.readouterr().out
    assert "train.py refuses" not in out
    assert "2  equally frequent in training batches" in out
    for path in out.strip().splitlines()[-1].split():  # a line of paths
        assert Path(path).is_file()


@pytest.mark.slow
def test_clips_are_previewed_although_the_default_network_takes_images(previewed, capsys):
    words = ("dataset=moving_digits", "dataset.num_train=40", "dataset.num_val=6", "dataset.num_frames=3")
    with pytest.raises(UserError, match="backbone=unet does not support that"):
        compose("preview", [*words, "strict=true"])
    folder, found = previewed(*words, "noise=shared")
    assert "train.py refuses these words: dataset=moving_digits provides clips" in capsys.readouterr().out
    assert {"batch.gif", "batch.png", "noised.gif"} < {path.name for path in folder.iterdir()}
    assert found["shape"] == [1, 3, 16, 16]
    assert found["images"]["train"] == 40


def test_the_picture_shows_the_first_batch_of_training(previewed):
    folder, _ = previewed("num_shown=4", "dataset.batch_size=16", "seed=3")
    data = build_data(compose("train", ["dataset.batch_size=16", "seed=3"]))
    first = next(iter(data.train_dataloader()))["x"][0, 0]
    picture = np.asarray(Image.open(folder / "batch.png"))
    large = ((first + 1) * 127.5).round().numpy().astype(np.uint8).repeat(8, 0).repeat(8, 1)
    height, _width = picture.shape
    places = [(y, x) for y in range(height - 63) for x in range(10) if (picture[y : y + 64, x : x + 64] == large).all()]
    assert len(places) == 1


def test_numbers_that_cannot_be_are_refused(command):
    done = command("preview", "num_times=1")
    assert done.code == 2
    assert done.err.strip().endswith("num_times=1: it is at least 2")


def test_accents_that_the_font_has_not_are_left_out():
    assert legible("\u00e9cureuils \u2026 na\u00efve") == "ecureuils \u2026 naive"
