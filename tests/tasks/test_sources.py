"""Images that a task of sample.py starts from are read as those of datasets are, and bad files are named."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diffsweep.datasets.images import decode
from diffsweep.errors import UserError
from diffsweep.tasks.sources import load_images

DATA = SimpleNamespace(channels=3, image_size=8)


def test_images_are_read_as_a_dataset_reads_them(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 4), dtype=np.uint8)
    for name, image in zip(("a, é.png", "b.png"), pixels, strict=True):
        Image.fromarray(image).save(tmp_path / name)
    found = load_images(str(tmp_path), DATA, 5)
    expected = np.stack([decode(path.read_bytes(), 3, 8).pixels for path in sorted(tmp_path.iterdir())])
    assert torch.equal(found, torch.from_numpy(expected).float() / 127.5 - 1)


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_a_file_that_is_no_image_is_named_in_one_line(tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(UserError, match=r"task.source: .*bad.png is no readable image: it is") as error:
        load_images(str(tmp_path / "bad.png"), DATA, 5)
    assert "\n" not in str(error.value)


def test_a_coloured_image_is_refused_for_a_grey_model_and_no_grey_one_is(tmp_path):
    """Equal channels are grey whatever the file's mode, and a grey file serves a model of colours."""
    grey = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey).convert("RGB").save(tmp_path / "equal.png")
    Image.fromarray(grey).convert("RGB").save(tmp_path / "lossy.jpg", quality=40)
    Image.fromarray(np.stack([grey, grey, 255 - grey], -1)).save(tmp_path / "colour.png")
    of_grey = SimpleNamespace(channels=1, image_size=8)
    expected = torch.from_numpy(grey).float()[None] / 127.5 - 1
    for name in ("grey.png", "equal.png"):
        assert torch.equal(load_images(str(tmp_path / name), of_grey, 1)[0], expected)
    assert load_images(str(tmp_path / "lossy.jpg"), of_grey, 1).shape == (1, 1, 8, 8)
    assert torch.equal(load_images(str(tmp_path / "grey.png"), DATA, 1)[0], expected.expand(3, 8, 8))
    with pytest.raises(
        UserError, match=r"task.source: .*colour.png is coloured, and the model's images are grey"
    ) as error:
        load_images(str(tmp_path / "colour.png"), of_grey, 1)
    assert "\n" not in str(error.value)
