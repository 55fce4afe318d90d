"""Whether samples are what was asked of them: classes, read by a classifier, and captions, read by the dataset."""

from collections.abc import Mapping

from torch import Tensor

ATTRIBUTES = ("colour", "shape", "position", "size")


def class_accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of images that a classifier's logits (N, K) give their label, of labels (N,)."""
    return (logits.argmax(1) == labels).double().mean().item()


def caption_accuracies(right: Mapping[str, Tensor]) -> dict[str, float]:
    """The shares of images that show what their captions say.

    Args:
        right: bool tensors (N,): ``colour``, ``shape``, ``position``, ``size`` and ``colour_and_shape``, whether that is
            right, and ``held_out``, whether the caption's combination of colour and shape was held out of training.

    Returns:
        ``caption_accuracy`` and ``caption_accuracy_held_out``, colour and shape both right, for combinations seen and
        held out; ``colour_accuracy`` and so on for combinations seen. What no caption asked for is left out.
    """
    seen, held_out = ~right["held_out"], right["held_out"]
    shares = {
        "caption_accuracy": right["colour_and_shape"][seen],
        "caption_accuracy_held_out": right["colour_and_shape"][held_out],
        **{f"{part}_accuracy": right[part][seen] for part in ATTRIBUTES},
    }
    return {name: rows.double().mean().item() for name, rows in shares.items() if len(rows)}
