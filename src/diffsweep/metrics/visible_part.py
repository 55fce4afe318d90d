r"""Compare the classes of inpainted images with those of their originals, and with what the known pixels decide.

A classifier of masked images is the ceiling of any inpainting: where the known pixels do not decide the class, a right
result may have another one than the image.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

SURE = 0.9  # probability of a class from which on the known pixels decide it


class Agreement(NamedTuple):
    """The shares of inpainted images whose class is that of their originals, by a classifier of whole images.

    Attributes:
        of_all: the share of all images.
        decided: the share of images whose class the known pixels decide: the classifier of these alone gives a class a
            probability of at least 0.9.
        where_decided: the share of these whose results have the class of the original; NaN for none.
        ceiling: the share of these for which the classifier of the known pixels is right; NaN for none.
        ceiling_of_all: the same of all images.
    """

    of_all: float
    decided: float
    where_decided: float
    ceiling: float
    ceiling_of_all: float


def agreement(results: Tensor, originals: Tensor, visible: Tensor) -> Agreement:
    """Return how often inpainted images have the class of their originals.

    Args:
        results: logits of a classifier of whole images for the results, (N, K).
        originals: its logits for the originals, whose largest is taken for the class, (N, K).
        visible: logits of a classifier of the known pixels alone, (N, K).
    """
    truth, sure = originals.argmax(1), visible.softmax(1).amax(1) >= SURE
    right, ceiling = results.argmax(1) == truth, visible.argmax(1) == truth
    shares = (right, sure, right[sure], ceiling[sure], ceiling)
    return Agreement(*(float(share.double().mean()) for share in shares))


def classifier_of_known_pixels(
    images: Tensor,
    labels: Tensor,
    masked: Callable[[Tensor, Tensor], Tensor],
    epochs: int = 40,
    batch_size: int = 50,
    seed: int = 0,
) -> nn.Module:
    """Return a small convolutional classifier of masked images, trained on given images: logits = classifier(masked).

    It takes a quarter of a minute for a thousand digits on one core. Noise keeps it from learning the training images
    by heart. The state of torch's global generator is left as it was.

    Args:
        images: training images, (N, C, H, W) in [-1, 1].
        labels: their classes, int64, (N,).
        masked: a function of images (B, C, H, W) and of numbers (B,) by which their masks are drawn, that returns what
            the classifier reads, such as the masked images and the masks, (B, C', H, W).
        epochs: the number of passages of the training images.
        batch_size: the number of images of a training step.
        seed: the seed of weights and batches.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        channels = masked(images[:1], torch.zeros(1, dtype=torch.int64)).shape[1]
        side = max(1, min(images.shape[-1] // 2, 8))
        classifier = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.SiLU(),
            nn.AdaptiveMaxPool2d(side),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * side**2, 128),
            nn.SiLU(),
            nn.Dropout(0.3),
            nn.Linear(128, int(labels.max()) + 1),
        )
        steps = epochs * max(1, len(images) // batch_size)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=0.01)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            rows = torch.randint(0, len(images), (batch_size,))
            x = images[rows]
            x = x + 0.25 * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)
            numbers = step * batch_size + torch.arange(batch_size)
            loss = functional.cross_entropy(classifier(masked(x, numbers)), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
    return classifier.eval().requires_grad_(False)
