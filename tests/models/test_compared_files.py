"""Pairs and scored images in parquet files: read as images are, and refused in one line where a row is wrong."""

import numpy as np
import pytest
import torch
from image_files import encoded
from PIL import Image

from diffsweep.autoencoders import Identity
from diffsweep.datasets import Digits
from diffsweep.models import ComparedFiles

COUNT = 6


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (COUNT, 8, 8), dtype=np.uint8)


def file_of(path, **columns):
    import pyarrow as pa
    import pyarrow.parquet as pq

    usual = {
        "winner": [encoded(Image.fromarray(image)) for image in pixels(0)],
        "loser": [encoded(Image.fromarray(image)) for image in pixels(1)],
        "caption": [f"a text {row}" for row in range(COUNT)],
        "rating": [0.5, 3.0, 1.0, 2.0, 4.0, 5.0],
    }
    pq.write_table(pa.table({**usual, **columns}), path / "pairs.parquet")
    return str(path / "pairs.parquet")


class Base:
    autoencoder, device = Identity(1, 8), torch.device("cpu")


def rows_of(source):
    return [torch.cat(parts) for parts in zip(*source.rows(Base(), Digits(), None), strict=True)]


def in_floats(levels):
    return torch.from_numpy(levels).float() * 2 / 255 - 1


def test_pairs_are_read_with_their_texts(tmp_path):
    source = ComparedFiles(file_of(tmp_path))
    compared, score, prompt = rows_of(source)
    torch.testing.assert_close(compared[:, 0, 0], in_floats(pixels(0)), rtol=0, atol=1e-6)
    torch.testing.assert_close(compared[:, 1, 0], in_floats(pixels(1)), rtol=0, atol=1e-6)
    assert score.tolist() == [[1, 0]] * COUNT
    assert source.annotations(Digits()).annotations(prompt)["caption"] == [f"a text {i}" for i in range(COUNT)]
    assert source.pairs


def test_single_images_are_read_with_their_scores(tmp_path):
    source = ComparedFiles(file_of(tmp_path), loser_column=None, score_column="rating", caption_column=None)
    compared, score, _ = rows_of(source)
    assert compared.shape == (COUNT, 1, 1, 8, 8)
    assert score.tolist() == [[0.5], [3.0], [1.0], [2.0], [4.0], [5.0]]
    assert not source.pairs


def test_the_identity_follows_the_content_of_the_files(tmp_path):
    data = Digits()
    first = ComparedFiles(file_of(tmp_path)).identity(data)
    assert first == ComparedFiles(file_of(tmp_path)).identity(data)
    other = ComparedFiles(file_of(tmp_path, caption=["other"] * COUNT)).identity(data)
    assert first["files"] != other["files"]


SAME = [encoded(Image.fromarray(image)) for image in pixels(0)]
WRONG = [
    ({"loser": SAME}, {}, "row 0 has the same image as winner and as loser"),
    ({"caption": ["a", "b", None, "d", "e", "f"]}, {}, "row 2 has no text; give each row one"),
    ({"caption": ["a", "  ", "c", "d", "e", "f"]}, {}, "row 1 has '  ', which is no text"),
    ({}, {"caption_column": "prompt"}, "comparisons.caption_column=prompt: .* has the columns winner, loser"),
    ({"winner": [b"", *SAME[1:]]}, {}, "row 0: column winner has no readable image"),
    ({}, {"score_column": "rating"}, "comparisons need comparisons.loser_column"),
    ({"rating": ["x"] * COUNT}, {"loser_column": None, "score_column": "rating"}, "'x', which is no number"),
]


@pytest.mark.parametrize(("columns", "settings", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_rows_are_refused_in_one_line(tmp_path, columns, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        rows_of(ComparedFiles(file_of(tmp_path, **columns), **settings))
    assert "\n" not in str(caught.value)


def test_a_file_must_be_given():
    with pytest.raises(ValueError, match=r"comparisons.path is missing"):
        ComparedFiles(None)
