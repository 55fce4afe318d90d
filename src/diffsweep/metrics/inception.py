r"""Features of the Inception network by which FID is published, from a weights file that the user has downloaded.

The network is the one of 2015 that was published for TensorFlow (arXiv:1512.00567, with 1,008 outputs), as TorchScript
of NVIDIA, which StyleGAN, EDM and clean-fid evaluate by. Of its last pooled layer h, (2048,), are FID, KID, precision
and recall; of the class probabilities

.. math:: p(y | x) = \mathrm{softmax}(W h),

without a bias as in the original evaluator, is IS; and of the first 7 channels of the first convolution of its block
``mixed_6``, 7 x 17 x 17 = 2,023 numbers with their positions, is sFID (Nash et al. 2021, arXiv:2103.03841), which the
evaluator of guided-diffusion (arXiv:2105.05233) measures.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from diffsweep.files import ContentError
from diffsweep.metrics import fidelity
from diffsweep.metrics.resizing import RESIZES, check_resize, to_levels
from diffsweep.metrics.torchscript import Script, read_script

URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
PUBLIC = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"  # SHA-256 of that file
GET = f"give the public torchscript file of Inception, {URL}"
SIDE = 299  # pixels of its images
FLAGS = ("return_features", "no_output_bias")
SPATIAL, CHANNELS = "mixed_6", 7  # the block, and how many channels of its first branch, of sFID
WIDTH = 2048


class Inception(nn.Module):
    """The Inception network of FID as a feature extractor: ``features, logits, spatial = inception(x)``.

    x is images (N, C, H, W) in [-1, 1] with C = 1 or 3, of any size. They are rounded to 256 levels, as saving them
    would, resized to 299x299 pixels and scaled by (v - 128) / 128; grey images are repeated in three channels. Features
    are (N, 2048), logits (N, 1008) without the output's bias, and spatial features (N, 2023).

    Args:
        network: called as ``network(x, return_features=True)`` with x (N, 3, H, W) in [0, 255], it resizes them and
            returns the features; its parts are ``layers``, whose children are applied one after the other, and
            ``output``, a linear layer.
        weights_hash: the SHA-256 of the file of the network.
        device: the device on which the network runs.
        resize: ``legacy``, as the original evaluators and published values, or ``clean``, as clean-fid; see
            :mod:`diffsweep.metrics.resizing`.

    Raises:
        ContentError: the network's parts do not give what it returns as a whole, on a random image.
    """

    num_features = WIDTH

    def __init__(self, network: Any, weights_hash: str, device: torch.device, resize: str = "legacy") -> None:
        super().__init__()
        self.network, self.device, self.resize = network, device, check_resize(resize)
        self.name = "inception-2015-12-05"
        self.weights_hash = f"{weights_hash} {resize}"
        self.settings = {"resize_of_features": resize}
        self._check()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (N, 2048), logits (N, 1008) and spatial features (N, 2023) of images, on the CPU.

        Raises:
            ValueError: x is no tensor of images (N, C, H, W) with C = 1 or 3.
        """
        features, logits, spatial = self.encode(self.prepare(x))
        return features.cpu(), logits.cpu(), spatial.cpu()

    def prepare(self, x: Tensor) -> Tensor:
        """Return images (N, C, H, W) in [-1, 1] as the layers of the network take them, (N, 3, 299, 299)."""
        return _normalised(to_levels(x.to(self.device)), self.resize)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features, logits and spatial features of prepared images, see :meth:`forward`, on the device."""
        spatial = x
        for name, layer in self._layers:
            x = layer(x)
            if name == SPATIAL:  # the first channels of a block are those of its first branch, a 1x1 convolution
                spatial = x[:, :CHANNELS].flatten(1)
        features = x.reshape(-1, WIDTH).float()
        return features, features @ self.network.output.weight.T.float(), spatial.float()

    @cached_property
    def _layers(self) -> list[tuple[str, Any]]:
        return list(self.network.layers.named_children())

    @torch.no_grad()
    def _check(self) -> None:
        """Compare the parts of the network with the network as a whole on a random image, which takes a second."""
        levels = torch.randint(0, 256, (1, 3, 40, 56), generator=torch.Generator().manual_seed(0)).float()
        levels = levels.to(self.device)
        whole = self.network(levels, return_features=True)
        probabilities = self.network(levels, no_output_bias=True)
        try:
            features, logits, spatial = self.encode(_normalised(levels, "legacy"))
        except (AttributeError, RuntimeError) as error:
            raise ContentError(
                f"the network of metrics.features.path has other parts than Inception ({str(error).splitlines()[-1]}); "
                f"{GET}"
            ) from error
        equal = whole.shape == features.shape and torch.allclose(features, whole.float(), rtol=1e-2, atol=1e-2)
        if not equal or not torch.allclose(logits.softmax(1), probabilities.float(), atol=1e-2):
            raise ContentError(
                f"the layers of the network of metrics.features.path do not give its own result, as Inception's; {GET}"
            )
        if SPATIAL not in dict(self._layers) or spatial.shape[1] != CHANNELS * 17 * 17:
            raise ContentError(f"the network of metrics.features.path has no block {SPATIAL} of 17x17 pixels; {GET}")


def _normalised(levels: Tensor, resize: str) -> Tensor:
    return (RESIZES[resize](levels, SIDE) - 128) / 128


class PublicInception:
    """A loader of Inception from the torchscript file that public evaluators share; calling it returns it.

    Args:
        path: the file, ``inception-2015-12-05.pt``; None for the weights that torch-fidelity downloads, where this
            package is installed.
        resize: how images are resized to 299x299 pixels: ``legacy`` or ``clean``; see :class:`Inception`.
        accelerator: ``cpu`` runs the network on the CPU, anything else on the GPU if one is available.
        trust: the configuration's list of what the user trusts; with ``torchscript`` in it any file is read.

    Raises:
        ValueError: the file does not exist, is not trusted or no torchscript, its network lacks Inception's arguments,
            or ``resize`` is another.
    """

    def __init__(
        self, path: str | None, resize: str = "legacy", accelerator: str = "auto", trust: Sequence[str] = ()
    ) -> None:
        self.resize, self.accelerator = check_resize(resize), accelerator
        self.script: Script | None = None
        if path is None and fidelity.is_installed():
            if resize != "legacy":
                raise ValueError(
                    f"metrics.features.resize={resize} needs a file: torch-fidelity's network resizes by legacy; {GET}"
                )
            return
        missing = "metrics=inception needs the weights of Inception"
        get = f"{GET}, or pip install 'diffsweep[inception]', which downloads them" if path is None else GET
        self.script = read_script(path, PUBLIC, missing, get, FLAGS, accelerator, trust)

    def __call__(self) -> Inception | fidelity.FidelityInception:
        if self.script is None:
            gpu = self.accelerator != "cpu" and torch.cuda.is_available()
            return fidelity.FidelityInception(torch.device("cuda" if gpu else "cpu"))
        return Inception(*self.script, resize=self.resize)
