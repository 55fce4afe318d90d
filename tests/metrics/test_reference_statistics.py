"""Reference statistics in files: what is written is read, public forms are read, and other files are refused."""

import numpy as np
import pytest
import torch

from diffsweep.datasets import Digits
from diffsweep.files import ContentError
from diffsweep.metrics import GenerationMetrics, load_digits_classifier
from diffsweep.metrics.extraction import Features
from diffsweep.metrics.reference_statistics import Statistics, has_statistics, read_statistics, write_statistics


def features(count, spatial=True):
    x = torch.randn(count, 6)
    return Features(x, torch.zeros(count, 0), torch.randn(count, 3) if spatial else None)


@pytest.mark.parametrize("spatial", [True, False])
def test_written_statistics_are_read_with_all_bits(tmp_path, spatial):
    found = features(40, spatial)
    path = tmp_path / "stats.npz"
    write_statistics(path, Statistics.of(found))
    read = read_statistics(path)
    with np.load(path, allow_pickle=False) as content:
        np.testing.assert_allclose(content["mu"], found.features.double().mean(0))
        np.testing.assert_allclose(content["sigma"], np.cov(found.features.double().numpy().T), rtol=1e-9)
    assert torch.equal(read.whole.cov, Statistics.of(found).whole.cov)
    assert (read.spatial is not None) == spatial
    assert has_statistics(path)


def test_fid_to_the_statistics_of_a_split_is_fid_to_the_split(tmp_path):
    data, path = Digits(), tmp_path / "stats.npz"
    settings = {"num_samples": 100, "is_splits": 1, "kid_subset_size": 50, "resamples": 0, "cache_dir": str(tmp_path)}
    to_data = GenerationMetrics(load_digits_classifier, reference="train", **settings)
    write_statistics(path, Statistics.of(to_data.real(data, "train")))
    to_file = GenerationMetrics(load_digits_classifier, reference=str(path), **settings)
    x = data.split("val")["x"][:100].flip(-1)
    expected, numbers = to_data(x, data), to_file(x, data, {"label": data.split("val")["label"][:100]})
    assert numbers["fid"] == pytest.approx(expected["fid"], rel=1e-9)
    assert numbers["is"] == expected["is"]
    assert "class_accuracy" in numbers
    assert not {"kid", "precision", "recall", "fid_real"} & numbers.keys()
    assert to_file.protocol()["reference"].startswith("statistics ")
    assert str(tmp_path) not in str(to_file.protocol())
    with pytest.raises(ValueError, match="no such file"):
        GenerationMetrics(load_digits_classifier, reference=str(tmp_path / "none.npz"), **settings)


def test_statistics_of_other_features_are_refused(tmp_path):
    path = tmp_path / "stats.npz"
    write_statistics(path, Statistics.of(features(10)))
    metrics = GenerationMetrics(load_digits_classifier, 50, reference=str(path), cache_dir=str(tmp_path))
    with pytest.raises(ContentError, match="are of 6 features, and these metrics have 64"):
        metrics(Digits().split("val")["x"][:50], Digits())


MU, SIGMA = np.zeros(3), np.eye(3)
BAD = {
    "images": ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8)}, "has the arrays arr_0"),
    "no covariance": ({"mu": MU}, "mu without sigma"),
    "shapes": ({"mu": MU, "sigma": np.eye(4)}, r"sigma of \(4, 4\)"),
    "nan": ({"mu": MU * np.nan, "sigma": SIGMA}, "NaN or infinite"),
    "asymmetric": ({"mu": MU, "sigma": SIGMA + np.triu(np.ones((3, 3)), 1)}, "not symmetric"),
    "text": ({"mu": np.array(["a", "b", "c"]), "sigma": SIGMA}, "mu of <U1"),
    "objects": ({"mu": np.array([{}, 1, 2], dtype=object), "sigma": SIGMA}, "pickled content"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_statistics_are_refused_in_one_line(tmp_path, name):
    arrays, message = BAD[name]
    path = tmp_path / "stats.npz"
    np.savez(path, **arrays)
    with pytest.raises(ContentError, match=message) as refused:
        read_statistics(path)
    assert "\n" not in str(refused.value)
    assert "stats.npz" in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04broken"])
def test_files_that_are_no_archives_are_refused(tmp_path, content):
    path = tmp_path / "stats.npz"
    path.write_bytes(content)
    assert not has_statistics(path)
    with pytest.raises(ContentError, match=r"stats\.npz"):
        read_statistics(path)
