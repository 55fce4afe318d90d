"""Metrics of images, compared with direct formulas, and their values on digits."""

import numpy as np
import pytest
import scipy.linalg
import torch

from diffsweep.datasets import Digits, ImageData, Samples, load_digits
from diffsweep.metrics import (
    DigitsClassifier,
    GenerationMetrics,
    copies,
    identify,
    load_digits_classifier,
    manifold,
    precision_recall,
)
from diffsweep.metrics.digits_classifier import WEIGHTS
from diffsweep.metrics.distances import inception_score, kernel_distance
from diffsweep.metrics.frechet import frechet_distance


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
    """Features with exact moments: means at distance 3, standard deviations 1 and 2 in each of two directions."""
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(50, 1) * (199 / 200) ** 0.5
    shifted = 2 * square + torch.tensor([3.0, 0.0])
    assert frechet_distance(square, shifted) == pytest.approx(9 + 2 * (2 - 1) ** 2, rel=1e-5)


def test_frechet_distance_of_a_set_to_itself_is_0():
    real = features(500, 16).float()
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(real[torch.randperm(500)], real) == pytest.approx(0, abs=1e-4)


def test_inception_score_equals_its_formula():
    """exp E KL(p(y|x) || p(y))."""
    logits = 2 * torch.randn(50, 10).double()
    p = logits.softmax(1)
    expected = torch.exp((p * (p / p.mean(0)).log()).sum(1).mean())
    assert inception_score(logits, 1) == pytest.approx(float(expected), rel=1e-6)


def test_inception_score_is_averaged_over_random_parts():
    """The random permutation is that of seed 0."""
    logits = 2 * torch.randn(60, 10).double()
    p = logits[torch.randperm(60, generator=torch.Generator().manual_seed(0))].softmax(1)
    parts = [torch.exp((part * (part / part.mean(0)).log()).sum(1).mean()) for part in p.chunk(3)]
    assert inception_score(logits, 3) == pytest.approx(float(torch.stack(parts).mean()), rel=1e-6)


def test_inception_score_ranges_from_1_to_the_number_of_classes():
    sure = 100 * torch.eye(10).repeat(20, 1)
    assert inception_score(sure, 1) == pytest.approx(10, rel=1e-5)
    assert inception_score(torch.zeros(200, 10), 1) == pytest.approx(1, rel=1e-6)


def test_kernel_distance_is_the_unbiased_estimate():
    """MMD^2 with the kernel (x y / D + 1)^3, of subsets that are the whole sets."""
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


def test_random_subsets_are_fixed_and_leave_torchs_generator_unchanged():
    fake, real = features(100, 8).float(), features(100, 8).float()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = kernel_distance(fake, real, 4, 20), inception_score(fake, 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert (kernel_distance(fake, real, 4, 20), inception_score(fake, 2)) == first


def test_the_classifier_recognises_held_out_digits():
    val = load_digits("val")
    _, logits = load_digits_classifier()(val["x"])
    assert (logits.argmax(1) == val["label"]).double().mean() >= 0.98


def test_the_classifier_is_small_and_frozen_and_has_a_hash_of_its_weights():
    classifier = load_digits_classifier()
    assert WEIGHTS.stat().st_size < 300_000
    assert not classifier.training
    assert not any(p.requires_grad for p in classifier.parameters())
    assert len(classifier.weights_hash) == 64
    assert DigitsClassifier().weights_hash != classifier.weights_hash
    assert classifier(load_digits("val")["x"])[0].shape[1] == classifier.num_features


def test_the_classifier_rounds_images_to_levels():
    """Inputs are clipped and rounded to 17 levels, so noise of less than half a level changes nothing."""
    classifier, x = load_digits_classifier(), load_digits("val")["x"]
    noise = (torch.rand_like(x) - 0.5) * 0.99 / 8
    assert torch.equal(classifier(x + noise)[0], classifier(x)[0])
    assert torch.equal(classifier(3 * x)[0], classifier((3 * x).clamp(-1, 1))[0])


@pytest.mark.parametrize("reference", ["train", "all"])
def test_real_data_in_place_of_samples_have_distance_0(tmp_path, reference):
    data = Digits()
    metrics, x = make(tmp_path, reference=reference, kid_subset_size=500), data.split(reference)["x"]
    numbers = metrics(x, data)
    assert numbers["fid"] == pytest.approx(0, abs=1e-3)
    assert numbers["is"] == numbers["is_real"]
    assert 7 < numbers["is"] < 10
    assert abs(numbers["kid"]) < metrics(-x, data)["kid"] / 20
    assert ("fid_real" in numbers) == (reference == "train")  # of all data no others are left


def test_reference_halves_is_a_mean_over_ten_random_halves(tmp_path):
    """The distances of samples and of the other half from a half, written out."""
    data, metrics = Digits(), make(tmp_path, reference="halves")
    samples = data.split("val")["x"].flip(-1)
    numbers = metrics(samples, data)
    fake, real = metrics.extract(samples).features, metrics.extract(data.split("all")["x"]).features
    fids, floors = [], []
    for i in range(10):
        order = torch.randperm(1797, generator=torch.Generator().manual_seed(i))
        fids.append(frechet_distance(fake, real[order[898:]]))
        floors.append(frechet_distance(real[order[:297]], real[order[898:]]))  # as many as samples
    assert numbers["fid"] == pytest.approx(np.mean(fids), rel=1e-6)
    assert numbers["fid_real"] == pytest.approx(np.mean(floors), rel=1e-6)
    assert 0 < numbers["fid_real"] < numbers["fid"]
    assert numbers["real_samples"] == len(samples) == 297


@pytest.mark.parametrize("reference", ["train", "halves"])
@pytest.mark.parametrize("count", [120, 240])
def test_what_real_data_reach_is_measured_of_as_many_as_samples(tmp_path, reference, count):
    """Real digits as samples reach what is reported beside them, at each count; FID of fewer is higher, IS lower."""
    data, metrics = Digits(), make(tmp_path, reference=reference, kid_subset_size=100)
    samples = data.split("val")["x"][:count] if reference == "train" else data.split("all")["x"][:count]
    numbers = metrics(samples, data)
    assert numbers["real_samples"] == count
    for name in ("fid", "is", "precision", "recall"):
        assert numbers[name] == pytest.approx(numbers[f"{name}_real"], rel=0.3)
    assert abs(numbers["kid"] - numbers["kid_real"]) < 4 * numbers["kid_se"]
    if count == 120:
        more = metrics(data.split("val")["x"][:240], data)
        assert more["fid_real"] < 0.8 * numbers["fid_real"]
        assert more["is_real"] > numbers["is_real"]


def test_more_samples_than_real_data_have_the_floor_of_all_real_data(tmp_path):
    data, metrics = Digits(), make(tmp_path, reference="train")
    train = data.split("train")["x"]
    assert metrics(train[:400], data)["real_samples"] == 297
    of_all = inception_score(load_digits_classifier()(train)[1], 1)
    assert metrics(torch.cat([train, train[:500]]), data)["is_real"] == pytest.approx(of_all, rel=1e-5)


def test_precision_and_recall_over_halves(tmp_path):
    """Means over ten halves, cut to the number of samples, and those with the other half in place of the samples."""
    data, metrics = Digits(), make(tmp_path, reference="halves", neighbours=2)
    samples = data.split("val")["x"].flip(-1)  # 297
    numbers = metrics(samples, data)
    fake, real = metrics.extract(samples).features, metrics.extract(data.split("all")["x"]).features
    expected = []
    for i in range(10):
        order = torch.randperm(1797, generator=torch.Generator().manual_seed(i))
        half = manifold(real[order[898:][:297]], 2)
        others = manifold(real[order[:297]], 2)
        expected.append([*precision_recall(manifold(fake, 2), half), *precision_recall(others, half)])
    names = ("precision", "recall", "precision_real", "recall_real")
    assert [numbers[name] for name in names] == pytest.approx(np.mean(expected, 0), abs=1e-9)
    assert numbers["precision"] < numbers["precision_real"] - 0.1
    assert numbers["recall"] < numbers["recall_real"] - 0.1


def test_precision_and_recall_against_the_training_set(tmp_path):
    """Real images of one class as samples have precision 1 and the recall of that class."""
    data, metrics = Digits(), make(tmp_path, reference="train")
    train = data.split("train")
    threes = train["x"][train["label"] == 3]
    repeated = threes.repeat(1500 // len(threes) + 1, 1, 1, 1)[:1500]  # as many as the training set has
    numbers = metrics(repeated, data)
    assert numbers["precision"] == 1
    assert numbers["recall"] == pytest.approx(len(threes) / 1500, abs=1e-9)
    numbers = metrics(torch.cat([train["x"], train["x"]]), data)  # more samples than real images
    assert numbers["precision"] == 1
    assert 0.7 < numbers["recall"] < 1  # half of the samples are compared, which misses some real images


def test_the_copy_ratio_is_0_for_copies_and_1_for_new_digits(tmp_path):
    data, metrics = Digits(), make(tmp_path, reference="train")
    train, val = data.split("train")["x"], data.split("val")["x"]
    assert metrics(train[:300], data)["copy_ratio"] == pytest.approx(0, abs=1e-3)
    assert metrics(val, data)["copy_ratio"] == pytest.approx(1, rel=1e-6)
    almost = train[:300] + (torch.rand(300, 1, 8, 8) - 0.5) * 0.9 / 8  # equal after rounding to levels
    assert metrics(almost, data)["copy_ratio"] == pytest.approx(0, abs=1e-3)


def test_class_accuracy_compares_requested_labels_with_the_classifier(tmp_path):
    """The requested labels equal the classifier's guess for three quarters of the images."""
    data, metrics = Digits(), make(tmp_path, reference="train")
    x = data.split("val")["x"][:200]
    logits = load_digits_classifier()(x)[1]
    request = logits.argmax(1)
    request[:50] = (request[:50] + 1) % 10
    numbers = metrics(x, data, {"label": request})
    assert numbers["class_accuracy"] == 0.75
    real = data.split("val")
    right = load_digits_classifier()(real["x"])[1].argmax(1) == real["label"]
    assert numbers["class_accuracy_real"] == pytest.approx(right.double().mean().item())
    for nothing in (None, {}, {"caption": ["a three"] * 200}):
        assert not any("accuracy" in name for name in metrics(x, data, nothing))


class Shades(ImageData):
    """A dataset of images of one colour, (3, 5, 5), computed on demand; it records the largest batch requested."""

    fingerprint = "shades"
    largest_batch = 0

    def __init__(self, sizes, num_classes=2):
        super().__init__(channels=3, image_size=5, num_classes=num_classes, levels=256, batch_size=4)
        self.sizes = sizes

    def load(self, split):
        return ShadesSamples(self, self.sizes[split], {"train": 0, "val": 10**6}[split])

    def aligned(self, x, request):
        """Return whether images are red or green, and bright or dark, as their captions; dark red is held out."""
        red = x[:, 0].flatten(1).mean(1) > x[:, 1].flatten(1).mean(1)
        bright = x.flatten(1).amax(1) > 0.5
        colour = red == torch.tensor(["red" in caption for caption in request["caption"]])
        shape = bright == torch.tensor(["bright" in caption for caption in request["caption"]])
        held_out = torch.tensor([caption == "dark red" for caption in request["caption"]])
        parts = {"colour": colour, "shape": shape, "position": ~colour, "size": torch.ones_like(colour)}
        return {**parts, "colour_and_shape": colour & shape, "held_out": held_out}


class ShadesSamples(Samples):
    def __init__(self, data, size, first):
        self.data, self.size, self.first = data, size, first

    def __len__(self):
        return self.size

    def part(self, name):
        assert name == "label", "all images were requested at once"
        return self.rows(torch.arange(self.size))[name]

    def rows(self, index):
        self.data.largest_batch = max(self.data.largest_batch, len(index))
        noise = torch.stack(
            [torch.randn(3, generator=torch.Generator().manual_seed(self.first + i)) for i in index.tolist()]
        )
        stored = ((noise.tanh() + 1) * 127.5).round() / 127.5 - 1
        return {"x": stored[:, :, None, None].expand(-1, 3, 5, 5), "label": (noise[:, 0] > 0).long()}


class Colours(torch.nn.Module):
    """An extractor of features and logits that needs no training."""

    name, weights_hash, num_features = "colours", "none", 3

    def forward(self, x):
        means = x.mean((2, 3))
        return means, torch.stack([-means[:, 0], means[:, 0]], 1)


def of_shades(tmp_path, **settings):
    settings = {
        "num_samples": 60,
        "is_splits": 1,
        "kid_subsets": 3,
        "kid_subset_size": 20,
        "batch_size": 16,
        **settings,
    }
    return GenerationMetrics(Colours, cache_dir=str(tmp_path), **settings)


def test_data_are_read_in_batches(tmp_path, monkeypatch):
    """The metrics equal those of the same data in one batch."""
    monkeypatch.setattr(copies, "FEWEST", 5)
    monkeypatch.setattr(copies, "MOST", 40)
    data = Shades({"train": 300, "val": 50})
    metrics = of_shades(tmp_path)
    train = data.split("train").rows(torch.arange(300))
    data.largest_batch = 0
    samples = Shades({"train": 400, "val": 9}).split("train").rows(torch.arange(340, 400))["x"]
    numbers = metrics(samples, data)
    assert data.largest_batch == 40  # the held-out images of the copy ratio
    real = Colours()(train["x"])[0]
    assert numbers["fid"] == pytest.approx(frechet_distance(Colours()(samples)[0], real), rel=1e-5)
    torch.testing.assert_close(metrics.real(data, "train")[0], real)
    monkeypatch.setattr(copies, "FEWEST", 5)
    monkeypatch.setattr(copies, "MOST", 1000)
    held_out = data.split("val").rows(torch.arange(50))["x"]
    stored = ((samples + 1) * 127.5).round() / 127.5 - 1
    fake, kept = (torch.cdist(x.flatten(1), train["x"].flatten(1)).amin(1).median() for x in (stored, held_out))
    assert metrics(samples, data)["copy_ratio"] == pytest.approx(float(fake / kept), rel=1e-2)


def test_fewer_images_are_compared_if_the_training_set_is_large(tmp_path, monkeypatch):
    data, metrics = Shades({"train": 100, "val": 90}), of_shades(tmp_path, batch_size=8)
    samples = data.split("train").rows(torch.arange(60))["x"]
    for multiplications, expected in ((0, 10), (30 * 100 * 75, 30), (10**12, 60)):
        monkeypatch.setattr(copies, "FEWEST", 10)
        monkeypatch.setattr(copies, "MOST", 60)
        monkeypatch.setattr(copies, "MULTIPLICATIONS", multiplications)
        data.largest_batch = 0
        assert metrics(samples, data)["copy_ratio"] == 0
        assert data.largest_batch == expected


def test_caption_accuracies_by_hand(tmp_path):
    """Eight captions, two of them of a held-out pair."""
    data, metrics = Shades({"train": 40, "val": 10}), of_shades(tmp_path, num_samples=8, kid_subset_size=8)
    bright_red, dark_red, bright_green = (
        torch.tensor(c)[:, None, None].expand(3, 5, 5)
        for c in ([0.9, -1.0, -1.0], [0.0, -1.0, -1.0], [-1.0, 0.9, -1.0])
    )
    shown = [bright_red, bright_red, bright_green, dark_red, bright_red, bright_green, dark_red, bright_red]
    captions = [
        "bright red",
        "bright red",
        "bright red",
        "bright red",
        "bright green",
        "bright green",
        "dark red",
        "dark red",
    ]
    numbers = metrics(torch.stack(shown), data, {"caption": captions})
    found = {name: value for name, value in numbers.items() if "accuracy" in name}
    assert found == {
        "caption_accuracy": pytest.approx(3 / 6),
        "caption_accuracy_held_out": 0.5,
        "colour_accuracy": pytest.approx(4 / 6),
        "shape_accuracy": pytest.approx(5 / 6),
        "position_accuracy": pytest.approx(2 / 6),
        "size_accuracy": 1,
    }
    trained = metrics(torch.stack(shown[:6]), data, {"caption": captions[:6]})
    assert trained["caption_accuracy"] == numbers["caption_accuracy"]
    assert "caption_accuracy_held_out" not in trained
    assert "class_accuracy" not in trained
    unknown = Shades({"train": 40, "val": 10}, num_classes=3)  # another number of classes than the classifier's
    assert "class_accuracy" not in metrics(torch.stack(shown), unknown, {"label": torch.zeros(8).long()})


def test_worse_samples_have_worse_values(tmp_path):
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

    monkeypatch.setattr(second.features, "forward", fail)
    for cached, fresh in zip(second.real(data, "train")[:2], expected[:2], strict=True):
        assert torch.equal(cached, fresh)
    with pytest.raises(AssertionError, match="extracted again"):
        second.real(data, "all")  # another split is another file


def test_other_weights_or_data_have_a_cache_of_their_own(tmp_path, monkeypatch):
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
    for a, b in zip(whole[:2], parts[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("num_samples", "warned"), [(4, True), (64, True), (65, False), (5000, False)])
def test_too_few_samples_for_the_covariance_are_warned_of(tmp_path, num_samples, warned):
    warnings = make(tmp_path, num_samples=num_samples).warnings()
    assert len(warnings) == warned
    if warned:
        assert f"{num_samples} samples" in warnings[0]
        assert "64 features" in warnings[0]


def test_samples_too_few_for_fid_at_infinity_are_warned_of(tmp_path):
    """The classifier has 64 features, and each needs six samples."""
    few, enough = (make(tmp_path, num_samples=count, infinity=True) for count in (383, 384))
    (warning,) = few.warnings()
    assert "FID at infinity is left out" in warning
    assert "at least 384 samples, not 383" in warning
    assert not enough.warnings()
    data = Digits()
    x = data.split("all")["x"]
    assert "fid_infinity" not in few(x[:383], data)
    found = enough(x[:384], data)
    assert found["fid_infinity"] < 0.5 * found["fid"]


def test_the_hash_of_a_protocol_does_not_depend_on_the_order_of_its_keys():
    protocol = {"features": "a", "num_samples": 10, "sampler": {"steps": 3, "clip": "none"}}
    other = {"sampler": {"clip": "none", "steps": 3}, "num_samples": 10, "features": "a"}
    assert identify(protocol) == identify(other)


@pytest.mark.parametrize(
    "change", [{"num_samples": 11}, {"features": "b"}, {"sampler": {"steps": 4}}, {"more": None}], ids=str
)
def test_any_difference_changes_the_hash_of_a_protocol(change):
    protocol = {"features": "a", "num_samples": 10, "sampler": {"steps": 3}}
    assert identify({**protocol, **change}) != identify(protocol)


def test_the_protocol_has_every_setting_that_metrics_depend_on(tmp_path):
    base = {
        "num_samples": 100,
        "reference": "train",
        "neighbours": 3,
        "is_splits": 1,
        "kid_subsets": 3,
        "kid_subset_size": 50,
        "resamples": 100,
        "infinity": False,
    }
    changes = {
        "num_samples": 101,
        "reference": "all",
        "neighbours": 4,
        "is_splits": 2,
        "kid_subsets": 4,
        "kid_subset_size": 51,
        "resamples": 0,
        "infinity": True,
    }
    names = {identify(make(tmp_path, **base).protocol())}
    for name, value in changes.items():
        names.add(identify(make(tmp_path, **{**base, name: value}).protocol()))
    assert len(names) == 1 + len(changes)
    assert (
        identify(make(tmp_path, **base, batch_size=7).protocol()) in names
    )  # the batch size does not change the metrics


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"num_samples": 1}, "num_samples"),
        ({"reference": "test"}, "reference"),
        ({"neighbours": 0}, "neighbours must be at least 1"),
        ({"resamples": 1}, "resamples must be 0 .* not 1"),
        ({"num_samples": 5, "neighbours": 5}, "less than num_samples=5, not 5"),
    ],
)
def test_bad_values_are_refused(tmp_path, bad, match):
    with pytest.raises(ValueError, match=match):
        make(tmp_path, **bad)
