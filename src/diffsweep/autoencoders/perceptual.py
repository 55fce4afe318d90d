"""Perceptual losses: distances of images in the feature maps of a frozen network (LPIPS, arXiv:1801.03924).

    d(x, y) = sum_l 1 / (H_l W_l) sum_hw |w_l * (x^l_hw - y^l_hw)|^2

x^l_hw is the feature vector of x at position (h, w) of level l, scaled to length 1, and w_l are weights of its
channels.
"""

import importlib.resources
import pickle
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from diffsweep.capabilities import Part
from diffsweep.errors import UserError
from diffsweep.tensor_files import read_tensors

URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # of VGG16: (channels, convolutions); halved between
SMALLEST = 2 ** (len(STAGES) - 1)  # side of an image whose last maps have one pixel
HEADS = "functional/image/lpips_models/vgg.pth"  # the file of the w_l in torchmetrics
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the pixels of ImageNet, in [0, 1]


def unit(features: Tensor, eps: float = 1e-8) -> Tensor:
    """Return features (B, C, H, W) with the vector at each position scaled to length 1, in float32 at least.

    The vectors are divided by the root of their sum of squares plus ``eps``, so that the gradient is finite at 0.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features * (features.square().sum(dim=1, keepdim=True) + eps).rsqrt()


class Perceptual(Part, ABC):
    r"""A distance of images in the feature maps of a frozen network (Zhang et al. 2018, arXiv:1801.03924, equation 1).

    .. math:: d(x, y) = \sum_l \frac{1}{H_l W_l} \sum_{h, w} \lVert w_l \odot (\hat x^l_{hw} - \hat y^l_{hw}) \rVert^2

    with the feature vectors :math:`\hat x^l_{hw}` at each position of level l, scaled to length 1, and weights
    :math:`w_l` of their channels. Subclasses define the network (:meth:`load`) and its features (:meth:`embed`).

    It is not an ``nn.Module``, so its network is not part of a model that uses it, nor of the model's checkpoints,
    optimizer or weight average. The network is loaded at the first use and moved to the device of the images; its
    weights require no gradients.

    Args:
        weight: weight of the distance beside the error of the pixels, above 0; otherwise a ValueError is raised.
    """

    requires = frozenset({"compared_images"})

    def __init__(self, weight: float = 1.0) -> None:
        if weight <= 0:
            raise ValueError(
                f"perceptual.weight must be above 0, not {weight}; use perceptual=none to leave this loss out"
            )
        self.weight = weight

    def check(self) -> None:
        """Raise a ValueError if the network cannot be loaded; called before training.

        This class checks nothing; subclasses may.
        """
        return  # networks that are stages of a run are checked with the stages

    @abstractmethod
    def load(self) -> nn.Module:
        """Return the network with its weights; subclasses define it."""

    @abstractmethod
    def embed(self, x: Tensor) -> list[Tensor]:
        """Return the weighted unit features w_l x^l of images, the list of (B, C_l, H_l, W_l) for the levels l.

        Subclasses define it.

        Args:
            x: images in [-1, 1], (B, C, H, W), on the device of the network.
        """

    @cached_property  # read when it is first used
    def network(self) -> Any:
        # loaded in validation, the network must also work in training; the weights that are drawn before the file is
        # read must not advance the random numbers of the run
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            return self.load().eval().requires_grad_(False)

    def _follow(self, device: torch.device) -> None:
        if next(self.network.parameters()).device != device:
            with torch.inference_mode(False):
                self.network.to(device)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return d(x, y), (B,), in float32 at least, of images in [-1, 1], each (B, C, H, W)."""
        self._follow(x.device)
        levels = zip(self.embed(x), self.embed(y), strict=True)
        return torch.stack([(a - b).square().sum(dim=1).mean(dim=(1, 2)) for a, b in levels]).sum(dim=0)  # (B,)


class ClassifierPerceptual(Perceptual):
    """The perceptual distance in a classifier of the dataset, with all w_l = 1; it works offline, for data with labels.

    The features at each position of each map, scaled to length 1, are compared, as in :class:`Perceptual`. The
    classifier must not be the one that results are measured by: a network in whose features a loss was minimised rates
    the results as better than they are.

    Args:
        classifier: gives a module with ``feature_maps(x)``, a list of maps (B, C_l, H_l, W_l) of clean images (B, C,
            H, W) in [-1, 1].
        weight: weight of the distance beside the error of the pixels.
    """

    def __init__(self, classifier: Callable[[], Any], weight: float = 1.0) -> None:
        super().__init__(weight)
        self._classifier = classifier

    def load(self) -> nn.Module:
        network: nn.Module = self._classifier()
        return network

    def embed(self, x: Tensor) -> list[Tensor]:
        return [unit(features) for features in self.network.feature_maps(x)]


class LPIPS(Perceptual):
    """The perceptual distance LPIPS with VGG16, version 0.1 (Zhang et al. 2018, arXiv:1801.03924).

    The feature maps are those before each halving of the size, and the last. The weights w_l of their channels are
    those that come with torchmetrics. Features are scaled as in torchmetrics, by the root of their sum of squares plus
    1e-8: the first public code adds the constant after the root, which differs near 0 and has no finite gradient at 0.
    Grey images are repeated in all three channels.

    Args:
        channels, image_size: of the images: 1 or 3 channels, at least 16 pixels a side.
        weights: a file of torchvision's VGG16, with or without the layers after the features; None: the public one,
            which is downloaded once (528 MB) into the folder of torch.hub.
        weight: weight of the distance beside the error of the pixels.

    Raises:
        ValueError: images of other channels or too few pixels; at the first use, weights that cannot be read.
    """

    def __init__(self, channels: int, image_size: int, weights: str | None = None, weight: float = 1.0) -> None:
        super().__init__(weight)
        if channels not in (1, 3):
            raise ValueError(
                f"perceptual=lpips is for grey or colour images, but these have {channels} channels; use "
                "perceptual=classifier"
            )
        if image_size < SMALLEST:
            raise ValueError(
                f"perceptual=lpips halves images {len(STAGES) - 1} times, so their side must have at least {SMALLEST} "
                f"pixels, not {image_size}; use perceptual=classifier"
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
                f"perceptual.weights={self.weights} is not a VGG16 under torchvision's names: {why} Use the file {URL}"
            ) from error
        return network

    def embed(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.network(x)
        return maps


class LPIPSNetwork(nn.Module):
    """The network of LPIPS: the convolutions of VGG16 under torchvision's names, and the weights w_l.

    ``forward`` maps images (B, 1 or 3, H, W) in [-1, 1] to the weighted unit features of five levels, a list of
    (B, C_l, H_l, W_l). VGG16 is configuration D of Simonyan and Zisserman 2015 (arXiv:1409.1556). The constructor
    leaves w_l without values; they and VGG16's weights are loaded afterwards.

    Attributes:
        mean, std: of the pixels of ImageNet in [-1, 1], (3, 1, 1); images are standardised with them.
    """

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
    """Return the squares of LPIPS's channel weights w_l, each (C_l, 1, 1), as ``head0`` to ``head4``.

    They are read from the package torchmetrics; the names are those of the buffers of :class:`LPIPSNetwork`.
    """
    with importlib.resources.files("torchmetrics").joinpath(HEADS).open("rb") as file:
        saved = torch.load(file, map_location="cpu", weights_only=True)
    return {f"head{index}": saved[f"lin{index}.model.1.weight"][0] for index in range(len(STAGES))}


def _public_vgg16() -> dict[str, Tensor]:
    """Return the public weights, which are downloaded once."""
    progress = sys.stderr.isatty()
    found: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
        URL, map_location="cpu", check_hash=True, progress=progress, weights_only=True
    )
    return found


def read_vgg16(weights: str | None) -> dict[str, Tensor]:
    """Return the weights of VGG16's convolutions under torchvision's names, ``features.{layer}.weight`` and ``.bias``.

    Args:
        weights: a file of them; None: the public file, which is downloaded once.

    Raises:
        ValueError: the file does not exist or cannot be read, or the download fails.
    """
    get = f"download {URL} and give it as perceptual.weights=FILE, or use perceptual=classifier"
    try:
        saved = _public_vgg16() if weights is None else read_tensors(weights, f"perceptual.weights={weights}")
    except UserError as error:
        raise ValueError(f"{error}; {get}") from error
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        why = str(error).splitlines()[0] if isinstance(error, OSError) and str(error) else type(error).__name__
        raise ValueError(f"perceptual=lpips cannot read the public weights of VGG16 ({why}): {get}") from error
    return {name: tensor for name, tensor in dict(saved).items() if name.startswith("features.")}
