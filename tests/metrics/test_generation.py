"""Metrics against direct formulas, and what they report of digits."""

import numpy as np
import pytest
import scipy.linalg
import torch

from diffsweep.datasets import Digits, load_digits
from diffsweep.metrics import DigitsClassifier, GenerationMetrics, identify, load_digits_classifier
from diffsweep.metrics.digits_classifier import WEIGHTS
from diffsweep.metrics.generation import frechet_distance, inception_score, kernel_distance, nearest_distances


def features(count, dimension, scale=1.0, shift=0.0):
    mixing = torch.randn(dimension, dimension).double() / dimension**0.5
    return torch.randn(count, dimension).double() @ mixing * scale + shift


def make(tmp_path, **settings):
    settings = {"num_samples": 100, "kid_subsets": 3, "kid_subset_size": 50, "is_splits": 1, **settings}
    return GenerationMetrics(load_digits_classifier, cache_dir=str(tmp_path), **settings)


@pytest.mark.parametrize("sizes", [(300, 400), (1000, 1000)])
def test_frechet_distance_is_the_closed_form(sizes):
    """|mu - mu'|^2 + tr(S + S' - 2 (S S')^(1/2)), with scipy's square root of a matrix."""
    fake, real = features(sizes[0], 8, shift=0.3), features(sizes[1], 8, scale=1.5)
    s, r = np.cov(fake.numpy().T), np.cov(real.numpy().T)
    expected = ((fake.mean(0) - real.mean(0)) ** 2).sum().item() + np.trace(s + r - 2 * scipy.linalg.sqrtm(s @ r)).real
    assert frechet_distance(fake, real) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_known_gaussians():
    """Features with exact moments: means 3 apart, standard deviations 1 and 2 in each of two directions."""
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(50, 1) * (199 / 200) ** 0.5
    shifted = 2 * square + torch.tensor([3.0, 0.0])
    assert frechet_distance(square, shifted) == pytest.approx(9 + 2 * (2 - 1) ** 2, rel=1e-5)


def test_frechet_distance_of_a_set_to_itself_is_0():
    real = features(500, 16).float()
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(real[torch.randperm(500)], real) == pytest.approx(0, abs=1e-4)


def test_inception_score_is_the_formula():
    """exp E KL(p(y|x) || p(y))."""
    logits = 2 * torch.randn(50, 10).double()
    p = logits.softmax(1)
    expected = torch.exp((p * (p / p.mean(0)).log()).sum(1).mean())
    assert inception_score(logits, 1) == pytest.approx(float(expected), rel=1e-6)


def test_inception_score_is_averaged_over_random_parts():
    """The permutation is that of seed 0."""
    logits = 2 * torch.randn(60, 10).double()
    p = logits[torch.randperm(60, generator=torch.Generator().manual_seed(0))].softmax(1)
    parts = [torch.exp((part * (part / part.mean(0)).log()).sum(1).mean()) for part in p.chunk(3)]
    assert inception_score(logits, 3) == pytest.approx(float(torch.stack(parts).mean()), rel=1e-6)


def test_inception_score_ranges_from_1_to_the_number_of_classes():
    sure = 100 * torch.eye(10).repeat(20, 1)
    assert inception_score(sure, 1) == pytest.approx(10, rel=1e-5)
    assert inception_score(torch.zeros(200, 10), 1) == pytest.approx(1, rel=1e-6)


def test_kernel_distance_is_the_unbiased_estimate():
    """MMD^2 with the kernel (x y / D + 1)^3, over subsets that are whole sets."""
    fake, real = features(60, 8, shift=0.5), features(60, 8)

    def kernel(a, b):
        return (a @ b.T / 8 + 1) ** 3

    def off_diagonal_mean(k):
        return (k.sum() - k.trace()) / (60 * 59)

    expected = (
        off_diagonal_mean(kernel(fake, fake)) + off_diagonal_mean(kernel(real, real)) - 2 * kernel(fake, real).mean()
    )
    assert kernel_distance(fake, real, subsets=1, subset_size=60) == pytest.approx(float(expected), rel=1e-6)
    assert kernel_distance(fake, real, subsets=5, subset_size=60) == pytest.approx(float(expected), rel=1e-6)


def test_random_subsets_are_the_same_each_time_and_leave_the_generator_alone():
    fake, real = features(100, 8).float(), features(100, 8).float()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = kernel_distance(fake, real, 4, 20), inception_score(fake, 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert (kernel_distance(fake, real, 4, 20), inception_score(fake, 2)) == first


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_nearest_distances(chunk):
    x, others = torch.randn(20, 1, 3, 3), torch.randn(30, 1, 3, 3)
    expected = torch.stack([torch.stack([(a - b).square().sum().sqrt() for b in others]).min() for a in x])
    torch.testing.assert_close(nearest_distances(x, others, chunk), expected, rtol=1e-4, atol=1e-4)


def test_classifier_knows_the_held_out_digits():
    val = load_digits("val")
    _, logits = load_digits_classifier()(val["x"])
    assert (logits.argmax(1) == val["label"]).double().mean() >= 0.98


def test_classifier_is_small_frozen_and_named_by_its_weights():
    classifier = load_digits_classifier()
    assert WEIGHTS.stat().st_size < 300_000
    assert not classifier.training
    assert not any(p.requires_grad for p in classifier.parameters())
    assert len(classifier.weights_hash) == 64
    assert DigitsClassifier().weights_hash != classifier.weights_hash
    assert classifier(load_digits("val")["x"])[0].shape[1] == classifier.num_features


def test_classifier_sees_pictures_as_they_would_be_stored():
    """Rounded to 17 levels and clipped: less than half a level of noise changes nothing."""
    classifier, x = load_digits_classifier(), load_digits("val")["x"]
    noise = (torch.rand_like(x) - 0.5) * 0.99 / 8
    assert torch.equal(classifier(x + noise)[0], classifier(x)[0])
    assert torch.equal(classifier(3 * x)[0], classifier((3 * x).clamp(-1, 1))[0])


@pytest.mark.parametrize("reference", ["train", "all"])
def test_real_data_in_place_of_samples(tmp_path, reference):
    data = Digits()
    metrics, x = make(tmp_path, reference=reference, kid_subset_size=500), data.split(reference)["x"]
    numbers = metrics(x, data)
    assert numbers["fid"] == pytest.approx(0, abs=1e-3)
    assert numbers["is"] == numbers["is_real"]
    assert 7 < numbers["is"] < 10
    assert abs(numbers["kid"]) < metrics(-x, data)["kid"] / 20
    assert "fid_real" not in numbers


def test_halves_are_a_mean_over_ten_random_halves(tmp_path):
    """The distance of samples to a half, and of the other half to it, written out."""
    data, metrics = Digits(), make(tmp_path, reference="halves")
    samples = data.split("val")["x"].flip(-1)
    numbers = metrics(samples, data)
    (fake, _), (real, _) = metrics.extract(samples), metrics.extract(data.split("all")["x"])
    fids, floors = [], []
    for i in range(10):
        order = torch.randperm(1797, generator=torch.Generator().manual_seed(i))
        fids.append(frechet_distance(fake, real[order[898:]]))
        floors.append(frechet_distance(real[order[:898]], real[order[898:]]))
    assert numbers["fid"] == pytest.approx(np.mean(fids), rel=1e-6)
    assert numbers["fid_real"] == pytest.approx(np.mean(floors), rel=1e-6)
    assert 0 < numbers["fid_real"] < numbers["fid"]


def test_copy_ratio_of_copies_is_0_and_of_new_digits_1(tmp_path):
    data, metrics = Digits(), make(tmp_path, reference="train")
    train, val = data.split("train")["x"], data.split("val")["x"]
    assert metrics(train[:300], data)["copy_ratio"] == pytest.approx(0, abs=1e-3)
    assert metrics(val, data)["copy_ratio"] == pytest.approx(1, rel=1e-6)
    almost = train[:300] + (torch.rand(300, 1, 8, 8) - 0.5) * 0.9 / 8  # the same pictures once stored
    assert metrics(almost, data)["copy_ratio"] == pytest.approx(0, abs=1e-3)


def test_worse_samples_have_worse_numbers(tmp_path):
    data, metrics = Digits(), make(tmp_path, reference="train")
    val = data.split("val")["x"]
    noisy = [metrics((val + level * torch.randn_like(val)).clamp(-1, 1), data) for level in (0.0, 0.3, 1.0)]
    for name in ("fid", "kid"):
        values = [numbers[name] for numbers in noisy]
        assert values[0] < values[1] < values[2]
    assert noisy[2]["is"] < noisy[0]["is"]


def test_real_features_are_extracted_once(tmp_path, monkeypatch):
    data, first, second = Digits(), make(tmp_path), make(tmp_path)
    expected = first.real(data, "train")

    def fail(x):
        raise AssertionError("extracted again")

    monkeypatch.setattr(second, "extract", fail)
    for cached, fresh in zip(second.real(data, "train"), expected, strict=True):
        assert torch.equal(cached, fresh)
    with pytest.raises(AssertionError, match="extracted again"):
        second.real(data, "all")  # another split is another file


def test_other_weights_or_data_are_cached_apart(tmp_path, monkeypatch):
    data, metrics = Digits(), make(tmp_path)
    metrics.real(data, "train")
    monkeypatch.setattr(Digits, "fingerprint", "other digits")
    metrics.real(data, "train")
    metrics.features.weights_hash = "other weights"
    metrics.real(data, "train")
    assert len(list(tmp_path.glob("features-*.pt"))) == 3


def test_extraction_does_not_depend_on_the_batch_size(tmp_path):
    x = load_digits("val")["x"]
    whole, parts = make(tmp_path, batch_size=1000).extract(x), make(tmp_path, batch_size=13).extract(x)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("num_samples", "warned"), [(2, True), (64, True), (65, False), (5000, False)])
def test_warns_of_too_few_samples_for_the_covariance(tmp_path, num_samples, warned):
    warnings = make(tmp_path, num_samples=num_samples).warnings()
    assert len(warnings) == warned
    if warned:
        assert f"{num_samples} samples" in warnings[0]
        assert "64 features" in warnings[0]


def test_identity_of_a_protocol_does_not_depend_on_the_order_of_its_keys():
    protocol = {"features": "a", "num_samples": 10, "sampler": {"steps": 3, "clip": "none"}}
    other = {"sampler": {"clip": "none", "steps": 3}, "num_samples": 10, "features": "a"}
    assert identify(protocol) == identify(other)


@pytest.mark.parametrize(
    "change", [{"num_samples": 11}, {"features": "b"}, {"sampler": {"steps": 4}}, {"more": None}], ids=str
)
def test_any_difference_is_another_protocol(change):
    protocol = {"features": "a", "num_samples": 10, "sampler": {"steps": 3}}
    assert identify({**protocol, **change}) != identify(protocol)


def test_protocol_names_everything_the_numbers_depend_on(tmp_path):
    base = {"num_samples": 100, "reference": "train", "is_splits": 1, "kid_subsets": 3, "kid_subset_size": 50}
    changes = {"num_samples": 101, "reference": "all", "is_splits": 2, "kid_subsets": 4, "kid_subset_size": 51}
    names = {identify(make(tmp_path, **base).protocol())}
    for name, value in changes.items():
        names.add(identify(make(tmp_path, **{**base, name: value}).protocol()))
    assert len(names) == 1 + len(changes)
    assert identify(make(tmp_path, **base, batch_size=7).protocol()) in names  # how it is computed is no part of it


@pytest.mark.parametrize(("bad", "match"), [({"num_samples": 1}, "num_samples"), ({"reference": "test"}, "reference")])
def test_bad_values_are_refused(tmp_path, bad, match):
    with pytest.raises(ValueError, match=match):
        make(tmp_path, **bad)
