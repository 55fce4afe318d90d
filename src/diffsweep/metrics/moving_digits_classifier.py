"""The space-time classifier whose features make a Frechet distance between clips of ``moving_digits``. Its weights are in the repository.

The distance is Unterthiner et al. 2018's (arXiv:1812.01717) in form, and not in features: theirs are of I3D. That classifier learned classes
which a single frame often tells, and its distance hardly sees motion (Ge et al. 2024, arXiv:2404.12391); this one is taught the motion too.

Train it again with ``python -m diffsweep.metrics.train_moving_digits_classifier``.
"""

import math
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from diffsweep.metrics.shipped import ShippedClassifier

WEIGHTS = Path(__file__).with_name("moving_digits_classifier.pt")
SPEEDS = (1.0, 1.5)  # pixels a frame, between the three kinds of speed
DIRECTIONS = (math.pi / 6, math.pi / 3)  # between along x, both and along y


def kind_of_motion(velocity: Tensor) -> Tensor:
    """Which of nine a motion is, int64 (N,): three of speed times three of direction, of velocities (N, 2) in pixels a frame.

    Of (|v_x|, |v_y|), which reflection at walls does not change: any part of a clip shows the same.
    """
    across, down = velocity.abs().unbind(1)
    speed = torch.bucketize(torch.hypot(across, down), velocity.new_tensor(SPEEDS))
    direction = torch.bucketize(torch.atan2(down, across), velocity.new_tensor(DIRECTIONS))
    return 3 * speed + direction


class MovingDigitsClassifier(ShippedClassifier):
    """A small network, convolutions over space and then over time: ``features, logits = classifier(x)``.

    Attributes:
        num_features: 64, the width of the layer before the logits.
        distance: what the Frechet distance of these features is called. It is no FVD: that is of I3D, and comparable with published numbers.
        motion_head: of features (N, 64) the logits (N, 9) of :func:`kind_of_motion`.
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
        self.pair = nn.Sequential(  # what two frames show, and how the second differs from the first
            nn.Conv2d(2, 24, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(24, 40, 3, padding=1),
            nn.SiLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(40 * 4 * 4, 112),
            nn.SiLU(),
        )
        self.time = nn.Sequential(  # what this comes to
            nn.Conv1d(112, 112, 3, padding=1), nn.SiLU(), nn.Conv1d(112, 112, 3, padding=1), nn.SiLU()
        )
        self.last = nn.Sequential(nn.Dropout(0.3), nn.Linear(112, self.num_features), nn.SiLU())
        self.head = nn.Linear(self.num_features, self.num_classes)
        self.motion_head = nn.Linear(self.num_features, self.num_motions)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, 64) and logits (N, 10) of the digits, of clips in [-1, 1], (N, 1, F, 16, 16), F at least 4.

        Raises:
            ValueError: there are too few frames to tell a motion by.
        """
        if x.shape[2] < self.least_frames:
            raise ValueError(f"a motion is told by at least {self.least_frames} frames, not {x.shape[2]}")
        x = self.rounded(x)
        pairs = torch.cat([x[:, :, :-1], x.diff(dim=2)], dim=1)  # (N, 2, F - 1, 16, 16)
        told = self.pair(rearrange(pairs, "n c f h w -> (n f) c h w"))  # (N (F - 1), 112)
        told = rearrange(told, "(n f) d -> n d f", n=len(x))  # (N, 112, F - 1)
        features = self.last(self.time(told).mean(2))  # (N, 64)
        return features, self.head(features)


def load_moving_digits_classifier() -> MovingDigitsClassifier:
    """Return the classifier with the repository's weights, in evaluation mode."""
    return MovingDigitsClassifier.trained()
