"""A fixed classifier of clips of ``dataset=moving_digits``, whose features define the Frechet distance ``clip_fd``.

The distance has the form of FVD (Unterthiner et al. 2018, arXiv:1812.01717) with other features. FVD's features, of
I3D, were trained on classes that a single frame often reveals, so FVD hardly depends on motion (Ge et al. 2024,
arXiv:2404.12391); this classifier is trained to recognise both the digit and its motion.

Its weights are in the repository. The command ``python -m diffsweep.metrics.train_moving_digits_classifier`` trains it
again.
"""

import math
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from diffsweep.metrics.shipped import ShippedClassifier

WEIGHTS = Path(__file__).with_name("moving_digits_classifier.pt")
SPEEDS = (1.0, 1.5)  # pixels a frame: the boundaries between the three kinds of speed
DIRECTIONS = (math.pi / 6, math.pi / 3)  # angles from the x axis: the boundaries between along x, diagonal and along y


def kind_of_motion(velocity: Tensor) -> Tensor:
    """Return the kind of motion, 3 (kind of speed) + (kind of direction), 0 to 8, (N,) int64, of velocities (N, 2).

    The kinds of speed are 0 up to 1, 1 up to 1.5 and 2 above 1.5 pixels a frame; the kinds of direction are 0 along x,
    1 diagonal and 2 along y, with boundaries at 30 and 60 degrees. Only (|v_x|, |v_y|) counts, which reflections at
    walls do not change, so any part of a clip has the same kind.
    """
    across, down = velocity.abs().unbind(1)
    speed = torch.bucketize(torch.hypot(across, down), velocity.new_tensor(SPEEDS))
    direction = torch.bucketize(torch.atan2(down, across), velocity.new_tensor(DIRECTIONS))
    return 3 * speed + direction


class MovingDigitsClassifier(ShippedClassifier):
    """A small classifier of the digit and the motion of clips, called as ``features, logits = classifier(x)``.

    x is (N, 1, F, 16, 16) in [-1, 1] with F at least 4. The logits are those of the digit. The network has convolutions
    over space, for each pair of successive frames, and then over time. Its weights are random until :meth:`trained`
    loads those of the repository.

    Attributes:
        num_features: 64, the width of the layer before the logits.
        distance: ``clip_fd``, the name of the Frechet distance of these features; FVD is that of I3D's features.
        motion_head: a layer that maps features (N, 64) to logits (N, 9) of the kinds of :func:`kind_of_motion`.
    """

    name = "moving-digits-classifier"
    distance = "clip_fd"
    num_features = 64
    num_classes = 10
    num_motions = 9
    least_frames = 4
    levels = 256
    weights = WEIGHTS

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Sequential(  # of a frame, and the difference of the next one from it
            nn.Conv2d(2, 24, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(24, 40, 3, padding=1),
            nn.SiLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(40 * 4 * 4, 112),
            nn.SiLU(),
        )
        self.time = nn.Sequential(  # over the pairs of a clip
            nn.Conv1d(112, 112, 3, padding=1), nn.SiLU(), nn.Conv1d(112, 112, 3, padding=1), nn.SiLU()
        )
        self.last = nn.Sequential(nn.Dropout(0.3), nn.Linear(112, self.num_features), nn.SiLU())
        self.head = nn.Linear(self.num_features, self.num_classes)
        self.motion_head = nn.Linear(self.num_features, self.num_motions)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, 64) and logits of the digit (N, 10) of clips (N, 1, F, 16, 16) in [-1, 1], F at least 4.

        Raises:
            ValueError: F is below 4.
        """
        if x.shape[2] < self.least_frames:
            raise ValueError(f"the classifier of motion needs at least {self.least_frames} frames, not {x.shape[2]}")
        x = self.rounded(x)
        pairs = torch.cat([x[:, :, :-1], x.diff(dim=2)], dim=1)  # (N, 2, F - 1, 16, 16)
        hidden = self.pair(rearrange(pairs, "n c f h w -> (n f) c h w"))  # (N (F - 1), 112)
        hidden = rearrange(hidden, "(n f) d -> n d f", n=len(x))  # (N, 112, F - 1)
        features = self.last(self.time(hidden).mean(2))  # (N, 64)
        return features, self.head(features)


def load_moving_digits_classifier() -> MovingDigitsClassifier:
    """Return the classifier of moving digits with the trained weights of the repository, in evaluation mode."""
    return MovingDigitsClassifier.trained()
