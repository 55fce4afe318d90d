"""Agreement of classes, and the classifier of known pixels: it learns what is visible and nothing else."""

import math

import torch

from diffsweep.metrics.visible_part import agreement, classifier_of_known_pixels


def logits(*classes, sure=5.0):
    return sure * torch.nn.functional.one_hot(torch.tensor(classes), 3).float()


def test_shares_are_of_all_images_and_of_those_that_known_pixels_decide():
    visible = torch.cat([logits(0, 1, 1), logits(2, 2, sure=1.0)])  # the last two are not sure
    found = agreement(results=logits(0, 1, 0, 2, 0), originals=logits(0, 1, 2, 2, 1), visible=visible)
    assert found == (3 / 5, 3 / 5, 2 / 3, 2 / 3, 3 / 5)
    assert math.isnan(agreement(logits(0), logits(0), logits(0, sure=0.1)).where_decided)


def test_the_classifier_of_known_pixels_depends_on_these_alone():
    """Classes 0 and 1 differ in the left half, 2 and 3 in the hidden right one alone. The global generator is kept."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (200,), generator=generator)
    images = 0.3 * torch.randn(200, 1, 8, 8, generator=generator)
    images[labels < 2, :, :, :4] += 0.6 * (2 * labels[labels < 2] - 1)[:, None, None, None]
    images[labels >= 2, :, :, 4:] += 0.6 * (2 * labels[labels >= 2] - 5)[:, None, None, None]

    def masked(x, numbers):
        return torch.where(torch.arange(8) < 4, x, 0.0)

    before = torch.random.get_rng_state()
    classifier = classifier_of_known_pixels(images, labels, masked, epochs=10)
    assert torch.equal(torch.random.get_rng_state(), before)
    found = classifier(masked(images, None)).argmax(1)
    assert (found == labels)[labels < 2].double().mean() > 0.95
    assert ((found >= 2) == (labels >= 2)).double().mean() > 0.9
    flipped = torch.where(torch.arange(8) < 4, images, -images)
    assert torch.equal(classifier(masked(flipped, None)), classifier(masked(images, None)))
