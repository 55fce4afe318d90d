"""Scorers against the scenes that images were rendered from, and against the classifier's own logits."""

import pytest
import torch

from diffsweep.datasets import Digits, Shapes, load_digits
from diffsweep.datasets.shapes_scene import captions, draw, render
from diffsweep.models import Attribute, ClassProbability

INDEX = torch.arange(24)
SCENE = draw(INDEX, torch.zeros(24, dtype=torch.bool), torch.tensor([], dtype=torch.int64))


@pytest.fixture(scope="module")
def images():
    return render(SCENE, 16)


def test_the_radius_is_read_from_the_pixels(images):
    data, request = Shapes(num_train=8, num_val=8), {"caption": captions(SCENE)}
    larger, smaller = (Attribute("radius", sign)(images, request, data) for sign in (1, -1))
    torch.testing.assert_close(larger, 100 * SCENE.radius, rtol=0, atol=0.4)
    assert torch.equal(smaller, -larger)
    right = Attribute("x", absent=-50.0)(torch.cat([images, torch.zeros(1, 3, 16, 16)]), request, data)
    torch.testing.assert_close(right[:-1], 100 * SCENE.centre[:, 0], rtol=0, atol=0.4)
    assert right[-1] == -50  # grey: no shape is found


def test_images_that_do_not_show_what_is_required_have_the_least_score(images):
    texts = captions(SCENE)
    texts[3] = "a red cross" if "red" not in texts[3] else "a blue cross"
    score = Attribute("radius", required=["colour"])(images, {"caption": texts}, Shapes(num_train=8, num_val=8))
    assert (score == -30).nonzero()[:, 0].tolist() == [3]


def test_a_class_is_scored_by_its_log_probability():
    class Classifier:
        device = torch.device("cpu")

        def features_and_logits(self, x):
            return x, torch.stack([x.sum((1, 2, 3)), torch.zeros(len(x)), torch.ones(len(x))], 1)

    x, request = load_digits("val")["x"][:5], {"label": torch.tensor([0, 1, 2, 2, 0])}
    wanted = Classifier().features_and_logits(x)[1].double().log_softmax(1)
    for label in (None, 1):
        columns = request["label"] if label is None else torch.full((5,), label)
        found = ClassProbability(Classifier, label)(x, request, Digits())
        torch.testing.assert_close(found, wanted[torch.arange(5), columns])
    with pytest.raises(ValueError, match="the request has none"):
        ClassProbability(Classifier)(x, {}, Digits())
    with pytest.raises(ValueError, match=r"scorer.label=7: the classifier has the classes 0 to 2"):
        ClassProbability(Classifier, 7)(x, {}, Digits())


def test_what_cannot_be_read_is_refused(images):
    request = {"caption": captions(SCENE)}
    with pytest.raises(ValueError, match=r"scorer.name=width: the numbers .* are x, y, radius"):
        Attribute("width")(images, request, Shapes(num_train=8, num_val=8))
    with pytest.raises(ValueError, match="are none"):
        Attribute("radius")(load_digits("val")["x"][:5], {}, Digits())
    with pytest.raises(ValueError, match=r"scorer.required has texture"):
        Attribute("radius", required=["texture"])(images, request, Shapes(num_train=8, num_val=8))
    with pytest.raises(ValueError, match=r"scorer.sign is 1"):
        Attribute("radius", sign=2)
