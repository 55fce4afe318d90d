"""The training samples of a new concept: a subject's images and those that a base drew, in turn."""

import pytest
import torch

from diffsweep.datasets import Concept, ConceptSamples
from diffsweep.models import DiffusionModel, Losses


def images(count, value):
    return torch.full((count, 1, 2, 2), float(value))


def samples(subject=2, prior=5, **settings):
    captions = [f"a sks {i}" for i in range(subject)]
    return ConceptSamples(images(subject, 1), captions, images(prior, 2), ["a circle"] * prior, **settings)


def test_half_of_the_samples_are_of_the_subject_and_each_image_comes():
    table = samples(weight=0.25)
    batch = table.rows(torch.arange(len(table)))
    subject = batch["x"].flatten(1)[:, 0] == 1
    assert len(table) == 10
    assert subject.sum() == 5
    assert batch["loss_weight"].tolist() == [1.0 if of else 0.25 for of in subject]
    assert [caption.startswith("a sks") for caption in batch["caption"]] == subject.tolist()
    assert {caption for caption in batch["caption"] if "sks" in caption} == {"a sks 0", "a sks 1"}


@pytest.mark.parametrize("subject, prior, least, length", [(2, 0, 1, 2), (0, 3, 1, 3), (2, 0, 7, 7), (1, 1, 7, 8)])
def test_images_of_one_kind_alone_are_repeated_to_a_batch(subject, prior, least, length):
    table = samples(subject, prior, least=least)
    assert len(table) == length
    assert len(table["caption"]) == length
    with pytest.raises(ValueError, match="needs images"):
        samples(0, 0)


def test_without_a_subject_the_loss_of_prior_images_is_the_plain_loss(ddpm):
    """L_subject + lambda L_prior without a subject and with lambda = 1 is the loss of the same images."""
    model = ddpm()
    rows = torch.arange(4)
    batch = {**samples(0, 4).rows(rows), "position": rows}
    batch["x"] = torch.randn(4, *model.autoencoder.shape, generator=torch.Generator().manual_seed(0))
    plain = {name: part for name, part in batch.items() if name != "loss_weight"}
    one, two = (mean(model.losses(each)) for each in (batch, plain))
    assert torch.equal(one, two)
    assert torch.equal(mean(model.losses({**batch, "loss_weight": torch.full((4,), 0.5)})), 0.5 * two)


def mean(losses: Losses):
    return (losses.weight * losses.losses).mean()


@pytest.fixture
def ddpm(configure, tmp_path):
    from diffsweep.configuration.build import build_model

    def make() -> DiffusionModel:
        return build_model(configure(tmp_path / "run"))

    return make


def test_captions_are_those_beside_the_images_or_the_prompt(tmp_path):
    for name in ("b.png", "a.PNG", "c.txt", "a.txt"):
        (tmp_path / name).write_bytes(b" a red sks\n")
    concept = Concept(images=str(tmp_path), words=["sks"], prompt="a small {words}")
    assert [file.name for file in concept.files] == ["a.PNG", "b.png"]
    assert [concept.caption_of(file) for file in concept.files] == ["a red sks", "a small sks"]
    assert Concept(images=str(tmp_path / "nowhere")).files == []
    one = Concept(images=str(tmp_path / "a.PNG"))
    assert [one.caption_of(file) for file in one.files] == ["a red sks"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"words": []}, "concept.words are new words"),
        ({"words": ["two words"]}, "concept.words are new words"),
        ({"prompt": "a shape"}, r"concept.prompt='a shape' has no \{words\}"),
        ({"num_prior": -1}, "at least 0"),
        ({"prior_weight": -1.0}, "at least 0"),
        ({"prior_prompts": []}, "concept.prior_prompts is empty"),
    ],
)
def test_settings_that_are_not_possible_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Concept(**settings)
