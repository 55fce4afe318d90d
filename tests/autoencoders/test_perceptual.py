"""Perceptual losses against torchmetrics' LPIPS and distances by hand; how the frozen network is held."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from diffsweep.autoencoders import LPIPS, ClassifierPerceptual, Identity, nothing
from diffsweep.autoencoders.perceptual import URL, unit
from diffsweep.backbones import EncoderUNet
from diffsweep.configuration.check import check
from diffsweep.configuration.stage_nodes import trainable_config
from diffsweep.diffusion import Eps, Uniform
from diffsweep.models import NoisyClassifier
from diffsweep.runs.stages import identity
from diffsweep.schedules import Cosine

CONF = Path(__file__).parents[2] / "conf" / "perceptual"
VGG16 = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


@pytest.fixture(scope="module")
def features():
    """Return VGG16's layers in torchvision's order, with random weights."""
    torch.manual_seed(1)
    layers, width = [], 3
    for entry in VGG16:
        if entry == "M":
            layers.append(nn.MaxPool2d(2, 2))
            continue
        conv = nn.Conv2d(width, entry, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.normal_(conv.bias, std=0.1)
        layers += [conv, nn.ReLU()]
        width = entry
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def weights(features, tmp_path_factory):
    """Return the path of a file like torchvision's, with these weights and those of a layer that LPIPS does not use."""
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    saved = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    torch.save({**saved, "classifier.6.bias": torch.zeros(1000)}, path)
    return str(path)


@pytest.fixture(scope="module")
def lpips(weights):
    return LPIPS(3, 32, weights)


@pytest.fixture
def theirs(features, monkeypatch):
    """Return torchmetrics' LPIPS with the same VGG16."""
    module = pytest.importorskip("torchmetrics.functional.image.lpips")
    monkeypatch.setattr(module, "_get_tv_model_features", lambda name, pretrained: features)
    return module._NoTrainLpips(net="vgg")


def images(*shape):
    return torch.rand(*shape) * 2 - 1


class Maps(nn.Module):
    """A classifier whose feature maps are the image, and the mean of 2 x 2 of its pixels."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def feature_maps(self, x):
        return [self.weight * x, nn.functional.avg_pool2d(self.weight * x, 2)]


def clean_classifier():
    network = EncoderUNet(1, 10, 8, channels=8)
    return NoisyClassifier(network, Cosine(1000), Eps(), Uniform(), Identity(1, 8), None, None, noisy=False)


@pytest.mark.parametrize("size", [16, 32])
def test_lpips_equals_that_of_torchmetrics(lpips, theirs, size):
    x, y = images(3, 3, size, size), images(3, 3, size, size)
    distance = lpips(x, y)
    assert distance.shape == (3,)
    assert (distance > 0.01).all()
    torch.testing.assert_close(distance, theirs(x, y).flatten(), rtol=1e-5, atol=0)


def test_the_gradient_of_lpips_equals_that_of_torchmetrics(lpips, theirs):
    x, y = images(2, 3, 16, 16).requires_grad_(), images(2, 3, 16, 16)
    (ours,) = torch.autograd.grad(lpips(x, y).sum(), x)
    (expected,) = torch.autograd.grad(theirs(x, y).sum(), x)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-6 * expected.abs().max().item())


def test_grey_images_are_repeated_in_all_channels(lpips, weights):
    x, y = images(2, 1, 16, 16), images(2, 1, 16, 16)
    torch.testing.assert_close(LPIPS(1, 16, weights)(x, y), lpips(x.expand(2, 3, 16, 16), y.expand(2, 3, 16, 16)))


def test_the_distance_has_the_value_computed_by_hand():
    """The pixels are (3, 4), and one of (0, 5) in y: 0.6^2 + 0.2^2 at one of four pixels.

    At the second level it is the distance of (3, 4) and (2.25, 4.25).
    """
    loss = ClassifierPerceptual(Maps)
    x = torch.tensor([3.0, 4.0])[None, :, None, None].repeat(1, 1, 2, 2)
    y = x.clone()
    y[0, :, 1, 0] = torch.tensor([0.0, 5.0])
    second = (torch.tensor([3.0, 4.0]) / 5 - torch.tensor([2.25, 4.25]) / torch.tensor([2.25, 4.25]).norm()).square()
    torch.testing.assert_close(loss(x, y), (0.4 / 4 + second.sum())[None], rtol=1e-5, atol=0)


def test_the_distance_of_a_sample_does_not_depend_on_its_batch(lpips):
    for loss, x, y in [
        (lpips, images(3, 3, 16, 16), images(3, 3, 16, 16)),
        (ClassifierPerceptual(clean_classifier), images(3, 1, 8, 8), images(3, 1, 8, 8)),
    ]:
        alone = torch.cat([loss(x[i : i + 1], y[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(loss(x, y), alone, rtol=1e-4, atol=1e-7)


def test_it_is_zero_at_equality_with_a_finite_gradient_and_symmetric(lpips):
    for loss, shape in [(lpips, (2, 3, 16, 16)), (ClassifierPerceptual(clean_classifier), (2, 1, 8, 8))]:
        x, y = images(*shape).requires_grad_(), images(*shape)
        same = loss(x, x.detach())
        assert not same.any()
        (gradient,) = torch.autograd.grad(same.sum(), x)
        assert not gradient.any()
        torch.testing.assert_close(loss(x, y), loss(y, x), rtol=1e-6, atol=0)
        assert (loss(x, y) > 0).all()


def test_the_gradient_is_finite_where_all_features_are_zero():
    x = torch.zeros(1, 2, 2, 2, requires_grad=True)
    loss = ClassifierPerceptual(Maps)(x, torch.ones(1, 2, 2, 2))
    loss.sum().backward()
    assert x.grad.isfinite().all()
    assert torch.equal(unit(torch.zeros(1, 3, 1, 1)), torch.zeros(1, 3, 1, 1))


def test_following_the_gradient_decreases_the_distance():
    """A step against the gradient of the distance decreases it."""
    loss, x, y = ClassifierPerceptual(clean_classifier), images(2, 1, 8, 8).requires_grad_(), images(2, 1, 8, 8)
    before = loss(x, y)
    (gradient,) = torch.autograd.grad(before.sum(), x)
    assert (loss(x - 0.1 * gradient, y) < before).all()


def test_a_classifiers_maps_are_at_time_zero_and_do_not_depend_on_autocast():
    model, x = clean_classifier(), images(2, 1, 8, 8)
    maps = model.feature_maps(x)
    assert [tuple(level.shape) for level in maps] == [(2, 8, 8, 8), (2, 16, 4, 4)]
    for ours, expected in zip(maps, model.backbone.feature_maps(x, torch.zeros(2)), strict=True):
        assert torch.equal(ours, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(model.feature_maps(x), maps, strict=True))


def test_autocast_does_not_change_the_distance_of_near_images(lpips):
    """The distance is computed in float32 under autocast."""
    x = images(2, 3, 16, 16)
    y = x + 0.05 * torch.randn_like(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distance = lpips(x, y)
    assert distance.dtype == torch.float32
    torch.testing.assert_close(distance, lpips(x, y), rtol=0.1, atol=0)


class Holder(nn.Module):
    """A module that holds a loss, as models do."""

    def __init__(self, loss):
        super().__init__()
        self.decoder, self.perceptual = nn.Conv2d(3, 3, 1), loss


def test_the_network_is_not_a_submodule_and_has_no_gradient(lpips):
    for loss, maps in [(lpips, 3), (ClassifierPerceptual(Maps), 3)]:
        holder, x = Holder(loss), images(1, maps, 16, 16)
        holder.perceptual(holder.decoder(x), x).sum().backward()
        assert set(holder.state_dict()) == {"decoder.weight", "decoder.bias"}
        assert len(list(holder.parameters())) == 2
        assert holder.decoder.weight.grad.any()
        holder.train()
        assert not loss.network.training
        frozen = list(loss.network.parameters())
        assert frozen
        assert all(not parameter.requires_grad and parameter.grad is None for parameter in frozen)


def test_the_network_is_loaded_once_without_drawing_random_numbers(weights):
    """This also holds if the first use is a validation, in inference mode."""
    calls = []

    def given():
        calls.append(1)
        return clean_classifier()

    for loss, shape in [(ClassifierPerceptual(given), (1, 1, 8, 8)), (LPIPS(3, 16, weights), (1, 3, 16, 16))]:
        x, y = images(*shape), images(*shape)
        state = torch.get_rng_state()
        with torch.inference_mode():
            first = loss(x, y)
        assert torch.equal(torch.get_rng_state(), state)
        x.requires_grad_()
        second = loss(x, y)
        torch.testing.assert_close(second, first.clone())
        second.sum().backward()
        assert x.grad.any()
    assert len(calls) == 1


def test_the_public_weights_are_read_from_the_folder_of_torch_hub(lpips, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / URL.rpartition("/")[2]).symlink_to(weights)
    x, y = images(1, 3, 16, 16), images(1, 3, 16, 16)
    assert torch.equal(LPIPS(3, 16)(x, y), lpips(x, y))


def test_a_failed_download_is_one_line_with_the_remedies(tmp_path, monkeypatch):
    def offline(*args, **keywords):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    with pytest.raises(ValueError, match="service not known") as error:
        LPIPS(3, 32).check()
    message = str(error.value)
    for expected in (URL, "perceptual.weights=FILE", "perceptual=classifier"):
        assert expected in message
    assert "\n" not in message


@pytest.mark.slow  # several networks
def test_files_that_are_no_vgg16_are_refused(features, tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    saved = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    torch.save({**saved, "features.0.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "grey.pth")
    del saved["features.28.weight"]
    torch.save(saved, tmp_path / "short.pth")
    for name, match in [
        ("missing.pth", r"missing.pth: no such file.*perceptual=classifier"),
        ("broken.pth", r"broken.pth.*perceptual.weights=FILE"),
        ("grey.pth", r"grey.pth is not a VGG16.*features.0.weight"),
        ("short.pth", r"short.pth is not a VGG16.*Missing key.*features.28.weight"),
    ]:
        with pytest.raises(ValueError, match=match) as error:
            LPIPS(3, 32, str(tmp_path / name)).check()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"channels": 3, "image_size": 8}, "at least 16 pixels, not 8; use perceptual=classifier"),
        ({"channels": 4, "image_size": 32}, "4 channels; use perceptual=classifier"),
        ({"channels": 3, "image_size": 32, "weight": 0.0}, "perceptual.weight must be above 0, not 0.0"),
    ],
)
def test_impossible_options_are_refused_with_the_reason(settings, match):
    with pytest.raises(ValueError, match=match):
        LPIPS(**settings)


def composed(option):
    own = OmegaConf.load(CONF / f"{option}.yaml")
    data = {"channels": 3, "image_size": 32}
    return OmegaConf.create({"trust": [], "dataset": data, "perceptual": own})


@pytest.mark.parametrize(("option", "kind"), [("lpips", LPIPS), ("classifier", ClassifierPerceptual)])
def test_the_options_build_their_classes(option, kind):
    cfg = composed(option)
    check(cfg)
    loss = instantiate(cfg.perceptual, _convert_="all")
    assert type(loss) is kind
    assert loss.weight == cfg.perceptual.weight == 1


def test_the_option_none_is_no_loss():
    check(composed("none"))
    assert instantiate(composed("none").perceptual) is nothing() is None


@pytest.mark.slow  # preflights of stages
def test_the_classifier_of_the_loss_differs_from_that_of_the_metrics(compose):
    """The loss has a classifier of the same data that is trained with another seed, in another directory."""
    cfg = compose("metrics=classifier", "dataset=shapes", "dataset.num_train=500")
    node = composed("classifier").perceptual.classifier
    ours = trainable_config(cfg, "perceptual.classifier", node)
    metrics = trainable_config(cfg, "metrics.features.model", cfg.metrics.features.model)
    assert (ours.choices.model, ours.choices.dataset, ours.seed, metrics.seed) == ("classifier", "shapes", 1, 0)
    assert ours.dataset.num_train == 500
    assert identity(ours) != identity(metrics)
