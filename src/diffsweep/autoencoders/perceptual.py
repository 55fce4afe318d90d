"""Perceptual losses: how far two images are apart in the feature maps of a frozen network."""

import importlib.resources
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from diffsweep.capabilities import Part

URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
STAGES = (
    (64, 2),
    (128, 2),
    (256, 3),
    (512, 3),
    (512, 3),
)  # of VGG16: channels and convolutions; maps are halved between
SMALLEST = 2 ** (len(STAGES) - 1)  # side of an image whose last maps have one pixel
HEADS = "functional/image/lpips_models/vgg.pth"  # of torchmetrics
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in [0, 1]


def unit(features: Tensor, eps: float = 1e-8) -> Tensor:
    """Feature vectors (B, C, H, W) of length 1, in float32 at least; the gradient is finite where all features are 0."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features * (features.square().sum(dim=1, keepdim=True) + eps).rsqrt()


class Perceptual(Part, ABC):
    r"""A distance of images in the feature maps of a frozen network (Zhang et al. 2018, arXiv:1801.03924, equation 1).

    .. math:: d(x, y) = \sum_l \frac{1}{H_l W_l} \sum_{h, w} \lVert w_l \odot (\hat x^l_{hw} - \hat y^l_{hw}) \rVert^2

    with the features of each pixel of level l, :math:`\hat x^l_{hw}`, scaled to length 1.

    Not an ``nn.Module``, and so no part of the model that holds it: its network is in no checkpoint, optimizer or average. It
    is loaded at the first use and follows the images to their device. Its weights require no gradients.

    Args:
        weight: of the distance, beside the error of pixels.
    """

    requires = frozenset({"reconstructions"})

    def __init__(self, weight: float = 1.0) -> None:
        if weight <= 0:
            raise ValueError(f"perceptual.weight must be above 0, not {weight}; perceptual=none has no such loss")
        self.weight = weight

    def check(self) -> None:
        """Finds out whether the network can be had, before a training begins.

        Raises:
            ValueError: it cannot.
        """
        return  # a stage is made sure of where stages are

    @abstractmethod
    def load(self) -> nn.Module:
        """The network."""

    @abstractmethod
    def embed(self, x: Tensor) -> list[Tensor]:
        """w_l times the features of length 1 of images (B, C, H, W), (B, C_l, H_l, W_l) for each level l."""

    @cached_property  # read when it is first used
    def network(self) -> Any:
        # What a validation loads, training uses too; the weights that are drawn before they are read are not drawn from a run's numbers.
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            return self.load().eval().requires_grad_(False)

    def _follow(self, device: torch.device) -> None:
        if next(self.network.parameters()).device != device:
            with torch.inference_mode(False):
                self.network.to(device)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """d(x, y), (B,), in float32 at least, of images in [-1, 1], each (B, C, H, W)."""
        self._follow(x.device)
        levels = zip(self.embed(x), self.embed(y), strict=True)
        return torch.stack([(a - b).square().sum(dim=1).mean(dim=(1, 2)) for a, b in levels]).sum(dim=0)  # (B,)


class ClassifierPerceptual(Perceptual):
    """The distance in a classifier of the data at hand, all w_l = 1: for any data with labels, offline.

    The classifier must not be one that the results are measured by: a network that a loss was minimised in finds them better
    than they are.

    Args:
        classifier: gives it: a module with ``feature_maps(x)``, maps (B, C_l, H_l, W_l) of clean images (B, C, H, W) in [-1, 1].
        weight: see :class:`Perceptual`.
    """

    def __init__(self, classifier: Callable[[], Any], weight: float = 1.0) -> None:
        super().__init__(weight)
        self._given = classifier

    def load(self) -> nn.Module:
        network: nn.Module = self._given()
        return network

    def embed(self, x: Tensor) -> list[Tensor]:
        return [unit(features) for features in self.network.feature_maps(x)]


class LPIPS(Perceptual):
    """LPIPS with VGG16 (Zhang et al. 2018, arXiv:1801.03924), version 0.1: the maps before each halving, and the last.

    Features are scaled as in torchmetrics, by the root of their sum of squares and 1e-8: the first public code's own scale, which
    differs where features are near 0, has no finite gradient there. Grey images stand in all three channels.

    Args:
        channels, image_size: of the images: 1 or 3 channels, at least 16 pixels a side.
        weights: a file of torchvision's VGG16, with or without the layers after the features; null: the public one, which is
            downloaded once (528 MB) into torch.hub's folder.
        weight: see :class:`Perceptual`.

    The w_l are those that come with torchmetrics.
    """

    def __init__(self, channels: int, image_size: int, weights: str | None = None, weight: float = 1.0) -> None:
        super().__init__(weight)
        if channels not in (1, 3):
            raise ValueError(
                f"perceptual=lpips sees grey or colour images, and these have {channels} channels; use perceptual=classifier"
            )
        if image_size < SMALLEST:
            raise ValueError(
                f"perceptual=lpips halves images {len(STAGES) - 1} times, so they need at least {SMALLEST} pixels, not {image_size}; use "
                "perceptual=classifier"
            )
        self.weights = weights

    def check(self) -> None:
        self.load()

    def load(self) -> nn.Module:
        network = LPIPSNetwork()
        saved = read_vgg16(self.weights)
        try:
            network.load_state_dict({**read_heads(), **saved})
        except RuntimeError as error:
            why = str(error).splitlines()[1].strip()
            raise ValueError(
                f"perceptual.weights={self.weights} is not a VGG16 under torchvision's names: {why} It is the file {URL}"
            ) from error
        return network

    def embed(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.network(x)
        return maps


class LPIPSNetwork(nn.Module):
    """The convolutions of VGG16 (Simonyan and Zisserman 2015, arXiv:1409.1556, configuration D) under torchvision's names, and the
    weights of LPIPS."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.ends, width = [], 3  # indices of the layers whose maps are compared
        for index, (channels, count) in enumerate(STAGES):
            layers += [nn.MaxPool2d(2)] * (index > 0)
            for _ in range(count):
                layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU(inplace=True)]
                width = channels
            self.ends.append(len(layers) - 1)
            self.register_buffer(f"head{index}", torch.empty(channels, 1, 1))  # w_l squared
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", 2 * torch.tensor(MEAN)[:, None, None] - 1, persistent=False)
        self.register_buffer("std", 2 * torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        h = (x.to(self.std.dtype).expand(-1, 3, -1, -1) - self.mean) / self.std  # (B, 3, H, W)
        maps: list[Tensor] = []
        for index, layer in enumerate(self.features):
            h = layer(h)
            if index in self.ends:
                maps.append(unit(h) * self.get_buffer(f"head{len(maps)}").sqrt())  # (B, C_l, H_l, W_l)
        return maps


def read_heads() -> dict[str, Tensor]:
    """The squares of LPIPS' w_l, each (C_l, 1, 1)."""
    with importlib.resources.files("torchmetrics").joinpath(HEADS).open("rb") as file:
        saved = torch.load(file, map_location="cpu", weights_only=True)
    return {f"head{index}": saved[f"lin{index}.model.1.weight"][0] for index in range(len(STAGES))}


def read_vgg16(weights: str | None) -> dict[str, Tensor]:
    """The weights of VGG16's convolutions: of a file, or the public ones.

    Raises:
        ValueError: there is no such file, or it cannot be downloaded.
    """
    public = partial(torch.hub.load_state_dict_from_url, URL, check_hash=True)
    read = public if weights is None else partial(torch.load, weights)
    try:
        saved = read(map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        what = "the public weights of VGG16" if weights is None else f"perceptual.weights={weights}"
        raise ValueError(
            f"perceptual=lpips cannot have {what} ({why}): download {URL} and give it as perceptual.weights=FILE, or use "
            "perceptual=classifier"
        ) from error
    return {name: tensor for name, tensor in dict(saved).items() if name.startswith("features.")}
