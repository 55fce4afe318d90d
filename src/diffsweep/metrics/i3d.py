r"""Features of the action classifier I3D, by which FVD is published, from a weights file that the user has downloaded.

FVD is the Frechet distance

.. math:: |\mu_1 - \mu_2|^2 + \mathrm{tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})

of the means and covariances of I3D's 400 logits on generated and on real clips (Unterthiner et al. 2018,
arXiv:1812.01717).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.files import ContentError
from diffsweep.metrics.torchscript import read_script

URL = "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt"
PUBLIC = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"  # SHA-256 of that file
GET = f"give the public torchscript file of I3D, {URL}"
SIDE = 224  # pixels of I3D's frames
FLAGS = ("rescale", "resize", "return_features")
AT_ONCE = 64  # frames in one call of the network


class I3D(nn.Module):
    """The I3D network trained on Kinetics-400 (arXiv:1705.07750) as a feature extractor: ``features, logits = i3d(x)``.

    FVD's features are its 400 logits, averaged over time (Unterthiner et al. 2018, arXiv:1812.01717), so features and
    logits are the same here. x is clips (N, C, F, H, W) in [-1, 1] with C = 1 or 3 and F at least 9. They are rounded
    to 256 levels, as saving them would, and scaled to 224x224 pixels by bilinear interpolation without antialiasing;
    grey clips are repeated in three channels. I3D is by Carreira and Zisserman (2017).

    Args:
        network: called as ``network(x, rescale=False, resize=False, return_features=True)`` with x (N, 3, F, 224, 224)
            in [-1, 1], it returns the logits.
        weights_hash: the SHA-256 of the file of the network.
        device: the device on which the network runs.
    """

    name = "i3d-kinetics-400"
    distance = "fvd"
    num_features = 400
    least_frames = 9  # time is halved three times, rounding up, and the last pooling needs two steps

    def __init__(self, network: Any, weights_hash: str, device: torch.device) -> None:
        super().__init__()
        self.network, self.weights_hash, self.device = network, weights_hash, device

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N, 400) of clips (N, C, F, H, W) in [-1, 1], twice: as features and as logits, on the CPU.

        Raises:
            ValueError: C is not 1 or 3, or F is below 9.
            ContentError: the network returns anything but (N, 400) numbers.
        """
        if x.shape[1] not in (1, 3) or x.shape[2] < self.least_frames:
            raise ValueError(
                f"I3D takes clips of 1 or 3 channels and at least {self.least_frames} frames, not {tuple(x.shape)}"
            )
        batches = x.split(max(1, AT_ONCE // x.shape[2]))
        features = torch.cat([self._features(batch.to(self.device)).cpu() for batch in batches])  # (N, 400)
        return features, features

    def _features(self, x: Tensor) -> Tensor:
        x = ((x.float().clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        frames = x.transpose(1, 2).flatten(0, 1)  # (N F, C, H, W)
        frames = functional.interpolate(frames, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        clips = frames.unflatten(0, (len(x), -1)).transpose(1, 2)  # (N, C, F, 224, 224)
        features = self.network(clips.expand(-1, 3, -1, -1, -1), **dict(zip(FLAGS, (False, False, True), strict=True)))
        if not isinstance(features, Tensor) or features.shape != (len(x), self.num_features):
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ContentError(
                f"the network of metrics.features.path returns {shape} for {len(x)} clips, "
                f"and I3D returns {self.num_features} numbers for each; {GET}"
            )
        return features.float()


class PublicI3D:
    """A loader of I3D from the torchscript file that public codes of FVD share; calling it returns :class:`I3D`.

    I3D is the network whose features define FVD. The file is StyleGAN-V's port of the original network. A torchscript
    file is a program, so any other file, by its SHA-256, is read only if the user trusts it.

    Args:
        path: the file, ``i3d_torchscript.pt``.
        accelerator: ``cpu`` runs the network on the CPU, anything else on the GPU if one is available.
        trust: the configuration's list of what the user trusts; with ``torchscript`` in it any file is read.

    Raises:
        ValueError: the file does not exist, is not trusted or no torchscript, or its network lacks I3D's arguments.
    """

    def __init__(self, path: str | None, accelerator: str = "auto", trust: Sequence[str] = ()) -> None:
        missing = "FVD needs the weights of I3D"
        self.script = read_script(path, PUBLIC, missing, GET, FLAGS, accelerator, trust)

    def __call__(self) -> I3D:
        return I3D(*self.script)
