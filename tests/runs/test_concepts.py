"""Runs that learn a new concept from a few images: words, images of the base, what trains, and bad input."""

import pytest
import torch
from PIL import Image

from diffsweep.configuration.build import build_model
from diffsweep.configuration.compose import compose
from diffsweep.configuration.loading import load_model, trained
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.saved import load_config
from diffsweep.errors import UserError
from diffsweep.runs.training import train
from diffsweep.samplers import DDIM

TINY = ("trainer.max_steps=2", "sampler=ddim", "sampler.steps=2", "logger=csv", "metrics=none")


@pytest.fixture(scope="module")
def crosses(tmp_path_factory):
    """A folder with three images of 16 pixels, one of them with a caption."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(3):
        Image.new("RGB", (16, 16), (80 * i, 20, 20)).save(folder / f"{i}.png")
    (folder / "0.txt").write_text("a red sks\n")
    return folder


@pytest.fixture(scope="module")
def learn(finished_text, crosses):
    """``cfg = learn(directory, *overrides)`` returns the configuration of a run that learns the folder's concept."""

    def learn(directory, *overrides):
        places = (f"hydra.run.dir={directory}", f"paths.output_dir={directory.parent}", f"concept.images={crosses}")
        return compose("train", [f"from={finished_text}", *places, *TINY, *overrides])

    return learn


def test_textual_inversion_trains_the_vectors_of_new_words_alone(learn, finished_text, tmp_path):
    """Its checkpoint has these vectors alone; the new word begins as the known one that is named."""
    words = ("concept=textual_inversion", "adaptation=frozen", "concept.initial=circle", "concept.vectors=2")
    cfg = learn(tmp_path / "run", *words)
    encoder = build_model(cfg).conditioning.encoder
    first, second = encoder.ids("sks")
    assert encoder.ids("a sks") == [encoder.ids("a")[0], first, second]
    vectors = encoder._embedded(torch.tensor([[*encoder.ids("circle"), first, second]]))[0]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])
    train(cfg)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert list(saved) == ["conditioning.encoder.new_words"]
    model, base = load_model(load_config(tmp_path / "run")), trained(str(finished_text))
    texts = ["a red circle", "a small blue square"]
    encoded = [one.conditioning.encoder(texts) for one in (model, base)]
    assert all(torch.equal(a, b) for a, b in zip(*encoded, strict=True))
    assert not torch.equal(model.conditioning.encoder.new_words[0], torch.zeros(model.conditioning.encoder.width))
    preflight(compose("sample", [f"run={tmp_path / 'run'}", 'conditioning.prompts=["a red sks"]']))


def test_dreambooth_draws_images_of_the_base_once(learn, tmp_path):
    words = ("concept=dreambooth", "concept.num_prior=6", "dataset.batch_size=8")
    train(learn(tmp_path / "one", *words))
    files = list(tmp_path.glob("**/prior-*/images.safetensors"))
    assert len(files) == 1
    written = files[0].stat().st_mtime_ns
    train(learn(tmp_path / "two", *words))
    assert [file.stat().st_mtime_ns for file in tmp_path.glob("**/prior-*/images.safetensors")] == [written]
    weights = [load_model(load_config(tmp_path / name)).state_dict() for name in ("one", "two")]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_a_style_is_learned_by_attention_alone_and_resumes_exactly(learn, resume, finished_text, crosses, tmp_path):
    """At the start samples are those of the base under the known word, to the bit; samples need no image."""
    style = ("concept=inst", "adaptation=frozen", f"concept.images={crosses / '0.png'}", "concept.initial=circle")
    style += ("concept.attention.dropout=0.2", "trainer.max_steps=3")
    train(learn(tmp_path / "whole", *style))
    saved = torch.load(tmp_path / "whole" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    parts = ("conditioning.encoder.attention.", "conditioning.encoder.new_words")
    assert all(name.startswith(parts) for name in saved)
    moved, base = crosses.rename(tmp_path / "elsewhere"), trained(str(finished_text))
    try:
        preflight(compose("sample", [f"run={tmp_path / 'whole'}", 'conditioning.prompts=["a red sks"]']))
        model = load_model(load_config(tmp_path / "whole"))
    finally:
        moved.rename(crosses)
    for name, weight in base.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name
    texts = [["a red sks"], ["a red circle"]]
    ours, known = (one.conditioning.encoder(text).tokens for one, text in zip((model, base), texts, strict=True))
    assert not torch.equal(ours, known)
    torch.nn.init.zeros_(model.conditioning.encoder.attention.to_out.weight)
    torch.nn.init.zeros_(model.conditioning.encoder.attention.to_out.bias)
    conds = [one.condition_of({"caption": text * 2}) for one, text in zip((model, base), texts, strict=True)]
    index, sampler = torch.arange(2), DDIM(steps=2)
    assert torch.equal(model.sample(index, 0, conds[0], sampler), base.sample(index, 0, conds[1], sampler))
    train(learn(tmp_path / "half", *style, "trainer.max_steps=2"))
    train(resume(tmp_path / "half", "trainer.max_steps=3"))
    again = torch.load(tmp_path / "half" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weight, again[name]) for name, weight in saved.items())


@pytest.mark.faults
@pytest.mark.parametrize(
    "words, message",
    [
        (["concept=inst"], r"has 3 images, .*use concept.images=\S+0.png.*\[rule a_style_is_of_one_image\]"),
        (["concept=inst", "concept.images=null"], r"concept.images is missing: give one image \[rule"),
        (
            ["concept=inst_clip", "concept.images={folder}/0.png"],
            r"concept.attention.encoder.path=None: give a folder of a clip model.*\[rule a_concept_can_be_read\]",
        ),
        (["concept.words=[red]"], "concept.words: 'red' is a word of this model already"),
        (["concept.initial=cirle"], "concept.initial=cirle is no word of this model; did you mean circle"),
        (["concept.images=null"], r"concept.images is missing.*\[rule a_concept_has_images\]"),
        (["concept.images=/nowhere"], r"concept.images=/nowhere is no folder.*\[rule a_concept_has_images\]"),
        (["adaptation=none"], "adaptation=none starts from random weights; leave one of the two out"),
    ],
)
def test_concepts_that_cannot_be_learned_are_refused(learn, crosses, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        preflight(learn(tmp_path / "run", "concept=dreambooth", *(word.format(folder=crosses) for word in words)))
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
@pytest.mark.parametrize(
    "name, content, message",
    [
        ("1.txt", b"a purpel sks", r"the caption of \S+1.png: 'a purpel sks': the vocabulary has no word"),
        ("9.png", b"no image", r"^concept.images: \S+9.png is no readable image"),
    ],
)
def test_a_broken_file_of_a_concept_is_named_before_anything_is_made(learn, crosses, tmp_path, name, content, message):
    (crosses / name).write_bytes(content)
    try:
        with pytest.raises(UserError, match=message + r".*\[rule a_concept_can_be_read\]"):
            preflight(learn(tmp_path / "run", "concept=dreambooth"))
    finally:
        (crosses / name).unlink()


@pytest.mark.faults
def test_a_model_without_words_learns_no_style(finished, crosses, tmp_path):
    words = (f"hydra.run.dir={tmp_path / 'run'}", "concept=inst", f"concept.images={crosses / '0.png'}")
    with pytest.raises(UserError, match="conditioning=text"):
        preflight(compose("train", [f"from={finished}", *words]))


def test_a_model_of_random_weights_learns_no_concept(configure, crosses, tmp_path):
    words = ("model=classifier_free", "dataset=shapes", "conditioning=text", "backbone.attention_factors=[2]")
    cfg = configure(tmp_path / "run", *words, "concept=dreambooth", f"concept.images={crosses}")
    with pytest.raises(UserError, match=r"use from=RUN \[rule a_concept_is_learned_by_a_trained_model\]"):
        preflight(cfg)


def test_forgetting_is_warned_of(learn, tmp_path, capsys):
    preflight(learn(tmp_path / "run", "concept=textual_inversion"))
    assert "word_vectors_alone_are_learned_with_a_frozen_base" in capsys.readouterr().err
