"""Files that cannot be read are refused by name or skipped and listed, in every dataset of image files."""

import io
import json

import numpy as np
import pytest
import torch
from image_files import claiming, encoded
from PIL import Image

from diffsweep.datasets import Parquet
from diffsweep.files import ContentError

SIZE, COUNT = 8, 12


def pictures(seed=0, count=COUNT):
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def broken(tmp_path, write_parquet):
    """Return a function that makes the dataset of 12 images, of which rows 3 and 7 are no images."""
    images = [Image.fromarray(image) for image in pictures()]
    images[3], images[7] = claiming(60_000, 60_000), encoded(images[7])[:60]
    path = write_parquet(tmp_path / "a.parquet", {"img": images, "label": list(range(COUNT))})
    usual = {"image_column": "img", "image_size": SIZE, "label_column": "label", "num_classes": COUNT, "num_val": 3}
    return lambda **other: Parquet(str(path), cache_dir=str(tmp_path / "cache"), **{**usual, **other})


def test_the_first_unreadable_image_is_named_with_the_way_to_skip_it(broken):
    with pytest.raises(ContentError) as error:
        broken().split("train")
    assert str(error.value).endswith(
        "a.parquet, row 3: column img has no readable image (it claims 3600000000 pixels, more than 134217728); "
        "dataset.max_bad=N skips up to N such images"
    )
    with pytest.raises(ContentError, match=r"row 3: .* and more than dataset.max_bad=1 images cannot be read"):
        broken(max_bad=1).split("train")


def test_unreadable_images_are_skipped_counted_and_listed(broken, tmp_path, capsys):
    data = broken(max_bad=2)
    found = data.split("all")
    assert sorted(found["label"].tolist()) == [row for row in range(COUNT) if row not in (3, 7)]
    pixels = ((found["x"] + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(pixels, pictures()[found["label"].numpy()])
    assert len(data.split("train")) + len(data.split("val")) == COUNT - 2
    (listed,) = (tmp_path / "cache/images").glob("*.json")
    rows = [where for _, where, _ in json.loads(listed.read_text())["unreadable"]]
    assert [where.rpartition("row ")[2] for where in rows] == ["3: column img", "7: column img"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert len(lines) == 1
    assert "2 of 12 images cannot be read and are skipped (dataset.max_bad=2)" in lines[0]
    assert str(listed) in lines[0]


def test_images_that_were_skipped_are_refused_by_a_run_that_skips_fewer(broken, capsys):
    broken(max_bad=5).split("train")
    assert len(broken(max_bad=2).split("all")) == COUNT - 2
    with pytest.raises(ContentError, match=r"more than dataset.max_bad=1"):
        broken(max_bad=1).split("all")
    with pytest.raises(ContentError, match=r"row 3.*dataset.max_bad=N"):
        broken().split("all")


def test_a_table_without_any_readable_image_is_refused(tmp_path, write_parquet):
    path = write_parquet(tmp_path / "a.parquet", {"img": [b"torn"] * 4})
    data = Parquet(str(path), "img", num_val=1, max_bad=9, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ContentError, match=r"row 0.*none of the 4 images can be read"):
        data.split("train")


def test_duplicates_are_kept_noted_and_listed(tmp_path, write_parquet, capsys):
    images = [Image.fromarray(image) for image in pictures(count=5)]
    path = write_parquet(tmp_path / "a.parquet", {"img": [*images, images[1], images[1]]})
    data = Parquet(str(path), "img", num_val=1, image_size=SIZE, cache_dir=str(tmp_path / "cache"))
    assert len(data.split("all")) == 7
    assert "2 of 7 images have the content of others, such as" in capsys.readouterr().err
    (listed,) = (tmp_path / "cache/images").glob("*.json")
    same = json.loads(listed.read_text())["same"]
    assert [(one.partition("row ")[2][0], other[-1]) for one, other in same] == [("5", "1"), ("6", "1")]


def test_the_background_is_behind_transparent_pixels_and_in_the_fingerprint(tmp_path, write_parquet):
    clear = io.BytesIO()
    Image.new("RGBA", (SIZE, SIZE), (255, 0, 0, 0)).save(clear, "PNG")
    path = write_parquet(tmp_path / "a.parquet", {"img": [clear.getvalue()] * 3})
    prints = set()
    for background, value in (("white", 1), ("black", -1)):
        data = Parquet(str(path), "img", num_val=1, background=background, image_size=SIZE, cache_dir=str(tmp_path))
        assert (data.split("train")["x"] == value).all()
        prints.add(data.fingerprint)
    assert len(prints) == 2
    with pytest.raises(ValueError, match=r"dataset.background=clear: no such colour"):
        Parquet(str(path), "img", num_val=1, background="clear")


def test_labels_may_be_names_or_begin_at_1(tmp_path, write_parquet):
    images = [Image.fromarray(image) for image in pictures(count=4)]
    usual = {"image_column": "img", "num_val": 1, "image_size": SIZE, "cache_dir": str(tmp_path), "num_classes": 2}
    for labels, names in ((["b", "a", "b", "a"], ["a", "b"]), ([2, 1, 2, 1], ["1", "2"])):
        path = write_parquet(tmp_path / "a.parquet", {"img": images, "label": labels})
        data = Parquet(str(path), label_column="label", class_names=names, **usual)
        assert data._labels.tolist() == [1, 0, 1, 0]
    with pytest.raises(ContentError, match=r"0 to 1, but .*row 0 has 2; labels that begin at 1 are found with"):
        Parquet(str(path), label_column="label", **usual)


def test_what_is_held_out_by_default_is_a_tenth(tmp_path, write_parquet):
    images = [Image.fromarray(image) for image in pictures(count=34)]
    path = write_parquet(tmp_path / "a.parquet", {"img": images})
    data = Parquet(str(path), "img", image_size=SIZE, cache_dir=str(tmp_path))
    assert (len(data.order["train"]), len(data.order["val"])) == (31, 3)
    few = Parquet(str(path), "img", image_size=SIZE, max_images=5, cache_dir=str(tmp_path))
    assert (len(few.order["train"]), len(few.order["val"])) == (4, 1)
