"""The comparison of inpainted images with their originals, by their classes, and with the training images."""

import torch
from torch import Tensor

from diffsweep.diffusion import Noise
from diffsweep.errors import UserError
from diffsweep.metrics.copies import copy_ratio
from diffsweep.metrics.visible_part import agreement, classifier_of_known_pixels
from diffsweep.tasks.drawing import Drawn
from diffsweep.tasks.masked import MaskedImages
from diffsweep.tasks.masks import Masks
from diffsweep.tasks.sampling import Job


def likeness(job: Job, part: MaskedImages, drawn: Drawn, masks: Masks) -> str:
    """Return in words how often results have the class of their images, and whether they are copies of training images.

    The classes are those of the classifier of the model's ``metrics``, such as ``digits``. Beside the share of all
    images it gives that of the images whose class the known pixels decide, and for both the ceiling: the accuracy of a
    classifier of the known pixels alone, which is trained on the training images for it. ``copy_ratio`` is
    :func:`~diffsweep.metrics.copies.copy_ratio`.

    Args:
        job: the job of the task.
        part: held-out images of the data, and their known pixels.
        drawn: the results.
        masks: the masks of the task, which training images get too.

    Raises:
        UserError: the model's ``metrics`` have no classifier of the data's classes, or the data have no classes.
    """
    metrics, classes = job.metrics(), job.data.num_classes
    logits = None if metrics is None else metrics.extract(torch.cat([drawn.x, part.images])).logits
    if metrics is None or logits is None or classes is None or logits.shape[1] != classes:
        raise UserError(
            "task.compare needs a classifier of the data's classes; use metrics=digits, or metrics=classifier, with "
            "data that have classes, or task.compare=false"
        )
    results, originals = logits.split(len(part.images))
    train = job.data.split("train")

    def masked(images: Tensor, numbers: Tensor) -> Tensor:
        known = masks.known(images, Noise(1, numbers))
        return torch.cat([torch.where(known, images, 0.0), known.to(images)], 1)

    classifier = classifier_of_known_pixels(train["x"], train["label"], masked)
    visible = classifier(torch.cat([torch.where(part.known, part.images, 0.0), part.known.float()], 1))
    found, ratio = agreement(results, originals, visible), copy_ratio(drawn.x, job.data, metrics.batches)
    return (
        f"class of the original in {found.of_all:.1%}, where known pixels decide it ({found.decided:.0%} of images) in "
        f"{found.where_decided:.1%}; a classifier of known pixels alone {found.ceiling_of_all:.1%} and "
        f"{found.ceiling:.1%}; copy ratio {ratio:.3f}"
    )
