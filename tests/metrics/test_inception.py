"""Metrics by Inception from a torchscript file; a small network with the public one's interface stands in for it."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from omegaconf import OmegaConf
from PIL import Image
from scripts import SmallInception, write_script

from diffsweep.configuration.build import build
from diffsweep.configuration.preflight import preflight
from diffsweep.datasets import Shapes
from diffsweep.errors import UserError
from diffsweep.files import ContentError
from diffsweep.metrics import GenerationMetrics, PublicInception

TRUST = ("torchscript",)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_script(tmp_path_factory.mktemp("inception") / "inception-2015-12-05.pt", SmallInception())


@pytest.fixture(scope="module")
def inception(file):
    return PublicInception(file, accelerator="cpu", trust=TRUST)()


@pytest.fixture(scope="module")
def data():
    return Shapes(image_size=16, num_train=40, num_val=30)


def colours(count, size=20, seed=0):
    levels = torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed))
    return levels, levels / 127.5 - 1


def test_features_and_probabilities_are_those_of_the_whole_network(inception, file):
    """The network as a whole resizes, returns features, and probabilities without the bias of its output."""
    levels, x = colours(3)
    features, logits, spatial = inception(x)
    whole = torch.jit.load(file)
    torch.testing.assert_close(features, whole(levels, return_features=True), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits.softmax(1), whole(levels, no_output_bias=True), rtol=1e-3, atol=1e-5)
    assert (features.shape, logits.shape, spatial.shape) == ((3, 2048), (3, 1008), (3, 2023))
    assert not torch.allclose(logits.softmax(1), whole(levels), rtol=1e-3, atol=1e-6)


def test_spatial_features_are_the_first_channels_of_mixed_6(inception):
    _, x = colours(2, size=299)  # no resizing
    layers = SmallInception().layers
    block = layers[:4](((x + 1) * 127.5 - 128) / 128)
    torch.testing.assert_close(inception(x)[2].unflatten(1, (7, 17, 17)), block[:, :7], rtol=1e-3, atol=1e-4)


def test_the_way_of_resizing_changes_features_and_their_protocol(file, inception, tmp_path):
    clean = PublicInception(file, "clean", "cpu", TRUST)()
    _, x = colours(2)
    assert not torch.allclose(clean(x)[0], inception(x)[0], rtol=1e-2)
    _, large = colours(1, size=299)
    assert torch.equal(clean(large)[0], inception(large)[0])  # nothing is resized
    named = [GenerationMetrics(lambda of=of: of, 10, cache_dir=str(tmp_path)).protocol() for of in (clean, inception)]
    assert [protocol["resize_of_features"] for protocol in named] == ["clean", "legacy"]
    assert named[0]["features_sha256"] != named[1]["features_sha256"]
    assert named[1]["features_sha256"].startswith(hashlib.sha256(Path(file).read_bytes()).hexdigest())


def test_images_in_memory_and_in_files_have_the_same_bits(inception, tmp_path):
    """Images between two levels, as a model draws them, and their PNG files and arrays of bytes."""
    from diffsweep.pictures import load_npz, to_uint8

    x = torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(1)) * 2.2 - 1.1
    pixels = to_uint8(x)
    np.savez(tmp_path / "samples.npz", arr_0=pixels)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    files = [np.asarray(Image.open(tmp_path / f"{number}.png")) for number in range(4)]
    from_png = torch.from_numpy(np.stack(files)).permute(0, 3, 1, 2) / 127.5 - 1
    for other in (from_png, load_npz(tmp_path / "samples.npz")):
        assert all(torch.equal(a, b) for a, b in zip(inception(other), inception(x), strict=True))
    grey = torch.rand(2, 1, 20, 20)
    assert torch.equal(inception(grey)[0], inception(grey.expand(-1, 3, -1, -1))[0])


def closed_form(fake, real):
    s, r = np.cov(fake.T), np.cov(real.T)
    root = scipy.linalg.sqrtm(s @ r).real
    return ((fake.mean(0) - real.mean(0)) ** 2).sum() + np.trace(s + r - 2 * root)


def test_all_numbers_of_papers_are_measured(inception, data, tmp_path):
    """FID and sFID are the closed form of their features; sFID has a value of real images in place of samples too."""
    metrics = GenerationMetrics(
        lambda: inception, 20, is_splits=2, kid_subsets=2, kid_subset_size=10, resamples=0, cache_dir=str(tmp_path)
    )
    x = data.split("val")["x"][:20].flip(2)
    numbers = metrics(x, data)
    assert {"fid", "sfid", "is", "kid", "kid_se", "precision", "recall", "sfid_real"} <= numbers.keys()
    real = inception(data.split("train")["x"])
    fake = inception(x)
    few = slice(0, 8)  # columns
    assert numbers["sfid"] > 0
    assert numbers["fid_real"] > 0
    found = metrics.comparison.against(
        metrics.extract(x)._replace(spatial=fake[2][:, few].contiguous()),
        metrics.real(data, "train")._replace(spatial=real[2][:, few].contiguous()),
    )
    expected = closed_form(fake[2][:, few].double().numpy(), real[2][:, few].double().numpy())
    assert found["sfid"] == pytest.approx(expected, rel=1e-3)
    assert all("spatial" in torch.load(path, weights_only=True) for path in tmp_path.glob("features-*.pt"))
    assert metrics.warnings()[0].startswith("FID is biased: 20 samples cannot estimate the covariance of 2048")


def test_the_option_inception_takes_a_file(compose, file, tmp_path):
    words = ("metrics=inception", f"metrics.features.path={file}", "metrics.features.resize=clean")
    cfg = compose(*words, "dataset=shapes", "trust=[torchscript]")
    preflight(cfg)
    assert build(cfg, "metrics").features.settings == {"resize_of_features": "clean"}
    for key, value, message in (
        ("trust", [], "is not the public file.*f58cb9b6"),
        ("metrics.features.path", None, "metrics.features.path is missing.*inception-2015-12-05.pt"),
        ("metrics.features.resize", "sharp", "resize is legacy or clean, not sharp"),
    ):
        wrong = cfg.copy()
        OmegaConf.update(wrong, key, value, force_add=True)
        with pytest.raises(UserError, match=message):
            build(wrong, "metrics")


class Plain(torch.nn.Module):
    """A network with the arguments of Inception and other parts."""

    def forward(self, x: torch.Tensor, return_features: bool = False, no_output_bias: bool = False):
        return torch.zeros(x.shape[0], 2048)


class Doubled(SmallInception):
    """A network whose own result is not that of its layers."""

    def forward(self, x: torch.Tensor, return_features: bool = False, no_output_bias: bool = False):
        return 2 * self.layers((x[:, :, :1, :1].expand(-1, -1, 299, 299) - 128) / 128).reshape(-1, 2048)


class Other(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        return x


def test_files_that_are_not_inception_are_refused_in_one_line(tmp_path):
    text = tmp_path / "text.pt"
    text.write_text("no network")
    cases = (
        (str(tmp_path / "none.pt"), ValueError, "no such file"),
        (str(text), ValueError, "is no torchscript file"),
        (write_script(tmp_path / "other.pt", Other()), ValueError, "does not take return_features, no_output_bias"),
        (write_script(tmp_path / "plain.pt", Plain()), ContentError, "has other parts than Inception"),
        (write_script(tmp_path / "doubled.pt", Doubled()), ContentError, "do not give its own result"),
    )
    for path, kind, message in cases:
        with pytest.raises(kind, match=message) as refused:
            PublicInception(path, "legacy", "cpu", TRUST)()
        assert "\n" not in str(refused.value)
