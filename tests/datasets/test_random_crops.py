"""Random crops show all of an image over many visits, depend on (seed, position) alone, and leave references alone."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from diffsweep.datasets import ImageFolder
from diffsweep.datasets.orders import Shuffled
from diffsweep.datasets.stream import TrainingStream
from diffsweep.files import ContentError


def ramp(width, height):
    """Return an image whose red value is its column and whose green value is its row."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 7)], -1).astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    """A folder of 4 wide, 4 tall and 4 square images, of 12 pixels at the shorter side."""
    (tmp_path / "photos").mkdir()
    for i in range(4):
        for name, size in (("wide", (40, 12)), ("tall", (12, 25)), ("square", (12, 12))):
            ramp(*size).save(tmp_path / "photos" / f"{name}{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def data(folder):
    """``data(**settings)`` makes a dataset of the folder with random crops of 12 pixels."""

    def data(**settings):
        more = {"crop": "random", "image_size": 12, "num_val": 2, "batch_size": 5, "label_column": None} | settings
        return ImageFolder(str(folder), cache_dir=str(folder.parent / "cache"), **more)

    return data


def corners(x):
    """Return the column and row in the image of the upper left pixel of each crop of ramps, and check the others."""
    values = ((x + 1) * 127.5).round().long()
    left, top = values[:, 0, 0, 0], values[:, 1, 0, 0]
    along = torch.arange(12)
    assert torch.equal(values[:, 0], (left[:, None, None] + along).expand(-1, 12, 12))
    assert torch.equal(values[:, 1], (top[:, None, None] + along[:, None]).expand(-1, 12, 12))
    return torch.stack([left, top], 1)


def test_crops_are_uniform_over_all_places_in_the_image(data):
    found = data()
    samples = stream_of(found.loader_samples("train"), 0)
    batch = samples[range(10 * 400)]  # 400 visits of each of 10 images
    places = corners(batch["x"])
    wide, tall = (places[:, 0] > 0), (places[:, 1] > 0)
    assert not (wide & tall).any()
    lefts = torch.bincount(places[wide][:, 0], minlength=29)[1:]
    tops = torch.bincount(places[tall][:, 1], minlength=14)[1:]
    assert len(lefts) == 28
    assert len(tops) == 13
    for counts in (lefts, tops):  # a chi-square over its degrees of freedom is 1 with a standard deviation of 0.3
        expected = counts.float().mean()
        assert ((counts - expected) ** 2 / expected).mean() < 2.2


def test_crops_depend_on_the_position_alone(data):
    whole = stream_of(data().loader_samples("train"), 3)[range(40)]["x"]
    parts = [stream_of(data().loader_samples("train"), 3)[range(k, k + 8)]["x"] for k in (32, 0, 16)]
    for start, part in zip((32, 0, 16), parts, strict=True):
        assert torch.equal(part, whole[start : start + 8])
    other = stream_of(data().loader_samples("train"), 4)[range(40)]["x"]
    assert not torch.equal(other, whole)


def test_a_copy_in_another_process_gives_the_same_crops(data):
    stream = stream_of(data().loader_samples("train"), 1)
    copied = pickle.loads(pickle.dumps(stream))  # what a worker of the loader gets
    assert torch.equal(copied[range(3, 17)]["x"], stream[range(3, 17)]["x"])


def test_mirrors_are_cropped_too(data):
    plain, mirrored = data().loader_samples("train"), data(flip=True).loader_samples("train")
    stream = stream_of(mirrored, 0)
    index, noise = torch.arange(10), _noise(10)
    assert torch.equal(mirrored.visited(index, noise)["x"], plain.visited(index, noise)["x"])
    assert torch.equal(mirrored.visited(index + 10, noise)["x"], plain.visited(index, noise)["x"].flip(-1))
    assert len(stream.samples) == 20


def test_references_and_held_out_images_are_those_of_the_centre(data):
    random, centre = data(), data(crop="centre")
    for split in ("train", "val", "all"):
        assert torch.equal(random.split(split)["x"], centre.split(split)["x"])
    assert torch.equal(random.loader_samples("val")["x"], centre.loader_samples("val")["x"])
    assert random.fingerprint == centre.fingerprint
    assert torch.equal(centre.loader_samples("train")["x"], centre.split("train")["x"])


def test_larger_images_are_scaled_and_keep_their_aspect(folder, data):
    for path in folder.iterdir():
        path.unlink()
    for i in range(4):
        Image.new("RGB", (100, 50), (255, 0, 0)).save(folder / f"{i}.png")
    found = data(num_val=1)
    assert found.training_samples().images.sizes.tolist() == [[12, 24]] * 3
    assert torch.equal(found.loader_samples("train")["x"], found.split("train")["x"])


def test_the_cache_is_used_again_and_a_torn_one_refused(folder, data):
    first = stream_of(data().loader_samples("train"), 0)[range(8)]["x"]
    (pixels,) = (folder.parent / "cache" / "images").glob("*.bytes")
    changed = pixels.stat().st_mtime_ns
    assert torch.equal(stream_of(data().loader_samples("train"), 0)[range(8)]["x"], first)
    assert pixels.stat().st_mtime_ns == changed
    pixels.write_bytes(pixels.read_bytes()[:-1])
    with pytest.raises(ContentError, match="is cut short; delete it"):
        data().training_samples()


def test_an_image_too_long_to_be_kept_whole_is_named(folder, data, monkeypatch):
    from diffsweep.datasets import images

    ramp(255, 1).save(folder / "line.png")
    monkeypatch.setattr(images, "MOST_PIXELS", 10_000)
    with pytest.raises(ContentError, match=r"line.png cannot be kept for random crops \(scaled whole it has 3060 x 12"):
        data(num_val=1).training_samples()


def test_crops_of_streamed_images_are_refused(data):
    for setting, key in (({"crop": "random"}, "crop=random"), ({"crop": "centre", "dequantise": True}, "dequantise=")):
        with pytest.raises(ValueError, match=rf"dataset.{key}.*use dataset.streaming=false"):
            data(streaming=True, **setting)


def test_other_crops_are_refused(data):
    with pytest.raises(ValueError, match=r"dataset.crop is centre or random, not left"):
        data(crop="left")


def _noise(count):
    from diffsweep.diffusion import Noise

    return Noise(0, torch.arange(count))


def stream_of(samples, seed):
    """Return the training batches of samples, whose order and random changes a seed determines."""
    return TrainingStream(samples, Shuffled(len(samples), seed), seed=seed)
