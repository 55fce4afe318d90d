"""Accuracies of generated images: the share that show the requested class, or what their caption names."""

from collections.abc import Mapping

from torch import Tensor

ATTRIBUTES = ("colour", "shape", "position", "size")


def class_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of images, in [0, 1], whose largest logit of a classifier is at their label.

    Args:
        logits: (N, K), one for each class.
        labels: (N,) int64, the requested classes.
    """
    return (logits.argmax(1) == labels).double().mean().item()


def caption_accuracies(right: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the shares of generated images that show what their captions name, for trained and held-out pairs apart.

    Args:
        right: what :meth:`diffsweep.datasets.ImageData.aligned` returns: bool tensors (N,), whether ``colour``,
            ``shape``, ``position``, ``size`` and ``colour_and_shape`` are as requested, and ``held_out``, whether the
            requested pair of colour and shape never occurs in training.

    Returns:
        ``caption_accuracy`` and ``caption_accuracy_held_out``, the shares with both colour and shape right, for pairs
        that occur in training and for held-out ones; ``colour_accuracy``, ``shape_accuracy``, ``position_accuracy`` and
        ``size_accuracy`` for pairs that occur in training. A share of no images is left out.
    """
    trained, held_out = ~right["held_out"], right["held_out"]
    shares = {
        "caption_accuracy": right["colour_and_shape"][trained],
        "caption_accuracy_held_out": right["colour_and_shape"][held_out],
        **{f"{part}_accuracy": right[part][trained] for part in ATTRIBUTES},
    }
    return {name: rows.double().mean().item() for name, rows in shares.items() if len(rows)}
