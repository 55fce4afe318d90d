"""FVD by a network from a torchscript file; a small network with the interface of the public I3D stands in for it."""

import hashlib

import numpy as np
import pytest
import scipy.linalg
import torch

from diffsweep.configuration.build import build
from diffsweep.configuration.preflight import preflight
from diffsweep.datasets import MovingDigits
from diffsweep.errors import UserError
from diffsweep.files import ContentError
from diffsweep.metrics import ClipMetrics, PublicI3D

TRUST = ("torchscript",)


class Small(torch.nn.Module):
    """A stand-in for I3D that returns 400 numbers: the mean of red, two pixels of blue, the change of green, and zeros.

    It must be called without its own rescaling and resizing.
    """

    def forward(self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False):
        assert (rescale, resize, return_features) == (False, False, True)
        assert (x.shape[1], x.shape[3], x.shape[4]) == (3, 224, 224)
        bright, pixels = x[:, 0].mean((1, 2, 3)), (x[:, 2, :, 90, 130] + x[:, 2, :, 30, 1]).mean(1)
        change = (x[:, 1, 1:] - x[:, 1, :-1]).square().mean((1, 2, 3))
        values = torch.stack([bright, pixels, change], 1)
        return torch.cat([values, torch.zeros(x.shape[0], 397)], 1)


class Wide(Small):
    def forward(self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False):
        return torch.zeros(x.shape[0], 1024)


class Other(torch.nn.Module):
    def forward(self, x: torch.Tensor, resize: bool = False):
        return x


def write(path, module):
    torch.jit.script(module).save(path)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return str(write(tmp_path_factory.mktemp("i3d") / "i3d_torchscript.pt", Small()))


@pytest.fixture(scope="module")
def data():
    return MovingDigits(num_frames=9, num_train=14, num_val=12)


def pixel(image, row, column):
    """Return a pixel of an image enlarged to 224 pixels by bilinear interpolation between pixels' centres, by hand."""
    size = len(image)
    found = 0.0
    places = [min(max((at + 0.5) * size / 224 - 0.5, 0), size - 1) for at in (row, column)]
    for dy in (0, 1):
        for dx in (0, 1):
            y, x = (min(int(place) + d, size - 1) for place, d in zip(places, (dy, dx), strict=True))
            shares = [abs(1 - d - (place - int(place))) for place, d in zip(places, (dy, dx), strict=True)]
            found += shares[0] * shares[1] * image[y, x]
    return found


def test_clips_are_rounded_enlarged_and_coloured_before_the_network(file):
    """Enlarging is bilinear, grey is repeated in all channels, and values are rounded to levels."""
    i3d = PublicI3D(file, trust=TRUST)()
    levels = torch.randint(0, 256, (10, 1, 9, 16, 16), generator=torch.Generator().manual_seed(0))
    x = levels / 127.5 - 1
    features, logits = i3d(1.0 * x + 0.3 / 127.5)
    assert features.shape == (10, 400)
    assert torch.equal(features, logits)
    clips = x.double().numpy()[:, 0]
    pixels = [np.mean([pixel(frame, 90, 130) + pixel(frame, 30, 1) for frame in clip]) for clip in clips]
    np.testing.assert_allclose(features[:, 1].numpy(), pixels, atol=1e-5)
    assert torch.equal(i3d(3 * x)[0], i3d((3 * x).clamp(-1, 1))[0])
    colour = x.expand(-1, 3, -1, -1, -1).clone()
    torch.testing.assert_close(i3d(colour)[0], i3d(x)[0], rtol=0, atol=1e-6)
    colour[:, 0] = -1
    torch.testing.assert_close(i3d(colour)[0][:, 0], torch.full((10,), -1.0), rtol=0, atol=1e-6)
    torch.testing.assert_close(i3d(x[[7, 2]])[0], features[[7, 2]], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_fvd_is_the_closed_form_of_its_features(file, data, tmp_path):
    """|mu - mu'|^2 + tr(S + S' - 2 (S S')^(1/2)) of the three features that are not 0."""
    maker = PublicI3D(file, trust=TRUST)
    metrics = ClipMetrics(
        maker, num_samples=12, kid_subsets=2, kid_subset_size=8, is_splits=1, cache_dir=str(tmp_path), least_frames=9
    )
    x = 0.5 * data.split("val")["x"].flip(2)
    numbers = metrics(x, data)
    fake, real = (maker()(clips)[0][:, :3].double().numpy() for clips in (x, data.split("train")["x"]))
    s, r = np.cov(fake.T), np.cov(real.T)
    root = scipy.linalg.sqrtm(s @ r).real
    expected = ((fake.mean(0) - real.mean(0)) ** 2).sum() + np.trace(s + r - 2 * root)
    assert numbers["fvd"] == pytest.approx(expected, rel=1e-3)
    assert numbers["fvd_real"] < numbers["fvd"] / 10
    assert "motion_error" in numbers
    assert not {"fid", "clip_fd", "frame_fid"} & numbers.keys()
    with open(file, "rb") as content:
        assert metrics.protocol()["features_sha256"] == hashlib.sha256(content.read()).hexdigest()
    assert metrics.warnings()[0].startswith("FVD is biased: 12 samples")


def test_the_option_fvd_accepts_a_file_and_frames(compose, file):
    """Frames can be measured beside FVD by another network, from the command line."""
    frames = (
        "{_target_: diffsweep.metrics.DigitFrames, _partial_: true, "
        "features: {_target_: diffsweep.metrics.load_digits_classifier, _partial_: true}}"
    )
    cfg = compose(
        *("model=video", "metrics=fvd", f"metrics.features.path={file}", "trust=[torchscript]"),
        *("dataset.num_frames=9", f"metrics.frames={frames}"),
    )
    preflight(cfg)
    metrics = build(cfg, "metrics")
    assert metrics.least_frames == metrics.features.least_frames
    assert metrics.distance == "fvd"
    assert metrics.frames.frames.confidence == "digit_confidence"
    untrusted = cfg.copy()
    untrusted.trust = []
    with pytest.raises(UserError, match="is not the public file"):
        build(untrusted, "metrics")


def test_a_file_that_is_not_i3d_is_refused_in_one_line(file, tmp_path):
    text = tmp_path / "text.pt"
    text.write_text("no network")
    cases = (
        ((None,), "metrics.features.path is missing.*i3d_torchscript.pt"),
        ((str(tmp_path / "none.pt"),), "no such file"),
        ((file,), r"is not the public file.*trust=\[torchscript\]"),
        ((str(text), "cpu", TRUST), "is no torchscript file"),
        ((str(write(tmp_path / "other.pt", Other())), "cpu", TRUST), "does not take rescale, return_features"),
    )
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message) as refused:
            PublicI3D(*arguments)
        assert "\n" not in str(refused.value)
    wide = PublicI3D(str(write(tmp_path / "wide.pt", Wide())), "cpu", TRUST)()
    with pytest.raises(ContentError, match=r"returns \(2, 1024\) for 2 clips"):
        wide(torch.zeros(2, 1, 9, 16, 16))


@pytest.mark.parametrize("shape", [(2, 1, 8, 16, 16), (2, 4, 9, 16, 16)])
def test_clips_of_other_shapes_are_refused(file, shape):
    with pytest.raises(ValueError, match="1 or 3 channels and at least 9 frames"):
        PublicI3D(file, "cpu", TRUST)()(torch.zeros(shape))
