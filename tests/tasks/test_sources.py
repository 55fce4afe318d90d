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
