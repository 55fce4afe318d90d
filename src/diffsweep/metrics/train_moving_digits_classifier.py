"""Train the classifier of moving digits, write its weights beside its module, and print its held-out accuracies.

Run it with ``python -m diffsweep.metrics.train_moving_digits_classifier``.
"""

import torch
from torch import Tensor
from torch.nn import functional

from diffsweep.datasets.moving_digits import MovingDigits, MovingDigitSamples
from diffsweep.metrics.moving_digits_classifier import WEIGHTS, MovingDigitsClassifier, kind_of_motion

MOST_FRAMES = 12


def noisy(x: Tensor, most: float = 0.1) -> Tensor:
    """Return clips (N, 1, F, H, W) with Gaussian noise; its standard deviation is uniform from 0 to ``most`` for each.

    The noise makes the features of the classifier depend on the digit and its motion and not on noise.
    """
    return x + most * torch.rand(len(x), 1, 1, 1, 1) * torch.randn_like(x)


def clips(samples: MovingDigitSamples, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the clips that an int64 index (B,) selects, the classes of their first digits and their kinds of motion.

    The clips are (B, 1, F, H, W); classes and kinds, see :func:`kind_of_motion`, are (B,) int64.
    """
    batch = samples[index]
    return batch["x"], batch["label"], kind_of_motion(samples.motion.velocity[index, 0])


@torch.no_grad()
def accuracies(classifier: MovingDigitsClassifier, num_frames: int, count: int = 2000) -> tuple[float, float]:
    """Return a classifier's accuracies on held-out clips, in [0, 1]: of the digit, and of its kind of motion.

    Args:
        classifier: the classifier in evaluation mode.
        num_frames: frames of a clip.
        count: number of clips.
    """
    samples = MovingDigits(num_frames=num_frames, num_val=count).load("val")
    assert isinstance(samples, MovingDigitSamples)
    x, digit, motion = clips(samples, torch.arange(count))
    features, logits = classifier(x)
    heads = ((logits, digit), (classifier.motion_head(features), motion))
    of_digit, of_motion = ((guess.argmax(1) == truth).double().mean().item() for guess, truth in heads)
    return of_digit, of_motion


def train_moving_digits_classifier(steps: int = 3000, batch_size: int = 64, seed: int = 0) -> MovingDigitsClassifier:
    """Return a classifier of moving digits trained on clips of 4 to 12 frames of the training split alone.

    It learns the digit and the kind of motion, by the sum of two cross-entropies.

    Args:
        steps: number of training steps; each uses new clips.
        batch_size: clips of a step.
        seed: seeds torch's global generator, which draws the weights, the noise and the numbers of frames.
    """
    torch.manual_seed(seed)
    samples = MovingDigits(num_frames=MOST_FRAMES, num_train=steps * batch_size).load("train")
    assert isinstance(samples, MovingDigitSamples)
    classifier = MovingDigitsClassifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=0.02)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for index in torch.arange(steps * batch_size).split(batch_size):
        x, digit, motion = clips(samples, index)
        frames = int(torch.randint(classifier.least_frames, MOST_FRAMES + 1, ()))
        features, logits = classifier(noisy(x[:, :, :frames]))
        loss = functional.cross_entropy(logits, digit)
        loss = loss + functional.cross_entropy(classifier.motion_head(features), motion)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return classifier.eval()


if __name__ == "__main__":
    trained = train_moving_digits_classifier()
    torch.save(trained.state_dict(), WEIGHTS)
    for frames in (4, 8, 16):
        of_digit, of_motion = accuracies(trained, frames)
        print(f"{frames} frames: held-out accuracy of the digit {of_digit:.2%}, of the kind of motion {of_motion:.2%}")
    print(f"{WEIGHTS.stat().st_size / 1000:.0f} kB at {WEIGHTS}")
