"""Translations of images to other texts: each option of conf/task, equalities with plain sampling, and bad input."""

import pytest
import torch
from PIL import Image

from diffsweep import pictures
from diffsweep.configuration.build import build_data, build_diffusion
from diffsweep.datasets import Shapes
from diffsweep.datasets.shapes_scene import CENTRES, render
from diffsweep.errors import UserError
from diffsweep.guidance import CrossAttentionMaps, ResidualFeatures, SelfAttentionMaps
from diffsweep.tasks import Job, Translate

INJECTIONS = {
    "prompt_swap": {},
    "translate": {"features": ResidualFeatures(), "self_attention": SelfAttentionMaps()},
    "prompt_to_prompt": {"self_attention": SelfAttentionMaps(), "cross_attention": CrossAttentionMaps()},
}
SMALL = ("dataset.num_train=32", "dataset.num_val=64", "backbone.channels=8")
DDIM = ("sampler=ddim", "sampler.steps=3", "sampler.start=0.8", "sampler.clip=none")


@pytest.fixture(scope="module")
def job(configure, tmp_path_factory):
    """A job of an untrained model of texts, whose layers that start at zero have random weights."""
    folder = tmp_path_factory.mktemp("job")
    cfg = configure(folder / "run", "model=classifier_free", "dataset=shapes", "conditioning=text", *SMALL, *DDIM)
    torch.manual_seed(0)
    model = build_diffusion(cfg).eval().requires_grad_(False)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return Job(model, build_data(cfg), folder, 4, 0, 3)


@pytest.mark.parametrize(
    "option", [pytest.param(name, marks=() if name == "translate" else pytest.mark.slow) for name in INJECTIONS]
)
def test_each_option_translates_and_reports_what_is_shown(command, finished_text, tmp_path, option):
    out = tmp_path / "out"
    shared = ["sample", f"run={finished_text}", f"task={option}", *DDIM, "num_samples=5", f"output={out}"]
    done = command(*shared, "task.words={red: blue, small: large}")
    assert done.code == 0, done.err
    assert "5 images translated, root mean square error of their reconstructions" in done.out
    assert "shown as requested: shape" in done.out
    assert "shown as in the source: shape" in done.out
    assert "by ddim in 3 steps, 12 network evaluations each" in done.out  # inversion, source, and two of the target
    texts = (out / "requests.tsv").read_text().splitlines()[1:]
    assert all("blue" in text or "large" in text for text in texts)
    assert not any("red" in text or "small" in text for text in texts)
    with Image.open(out / "translation.png") as picture:
        assert min(picture.size) > 4 * 64
    assert pictures.load_npz(out / "samples.npz").shape == (5, 3, 16, 16)


def test_a_swap_of_the_prompt_is_sampling_from_the_inverted_noise(job, monkeypatch):
    monkeypatch.setattr("diffsweep.tasks.translate.FAR", 0.0)
    drawn, line = Translate(words={"red": "blue"})(job)
    assert "they are nearer with sampler.start=0.9 sampler.clip=none" in line
    captions = job.data.split("val")["caption"]
    rows = torch.tensor([i for i, text in enumerate(captions) if "red" in text][:4])
    texts = [captions[i] for i in rows]
    assert drawn.request["caption"] == [text.replace("red", "blue") for text in texts]
    own, target = (job.model.condition_of({"caption": each}) for each in (texts, drawn.request["caption"]))
    state = job.model.sampler.invert(job.model.denoiser, job.data.split("val")["x"][rows], own)
    expected = job.model.sample_from(state, job.model.noise_of(rows, 0), target)
    torch.testing.assert_close(drawn.x, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("option", INJECTIONS)
def test_a_translation_to_the_source_s_own_text_is_its_reconstruction(job, option, monkeypatch):
    """Without guidance, and whatever is injected; with another text and the same injections it differs."""
    monkeypatch.setattr(job.model, "guidance", lambda denoiser, times: denoiser)
    conditioning, own = job.model.conditioning, "a red circle"
    monkeypatch.setattr(conditioning, "prompts", [own])
    same, _ = Translate(source_prompts=[own], **INJECTIONS[option])(job)
    cond = job.model.condition_of({"caption": [own] * 4})
    state = job.model.sampler.invert(job.model.denoiser, job.data.split("val")["x"][:4], cond)
    again = job.model.sampler(job.model.denoiser, state, cond)
    torch.testing.assert_close(same.x, again, rtol=0, atol=2e-3)
    monkeypatch.setattr(conditioning, "prompts", ["a blue circle"])
    other, _ = Translate(source_prompts=[own], **INJECTIONS[option])(job)
    assert (other.x - same.x).abs().max() > 0.01


def test_a_negative_text_takes_the_place_of_the_null_condition(job, monkeypatch):
    translate = Translate(words={"red": "blue"}, **INJECTIONS["translate"])
    plain, _ = translate(job)
    monkeypatch.setattr(job.model.conditioning, "negative", "a red square")
    away, _ = translate(job)
    assert away.request["negative"]["caption"] == ["a red square"] * 4
    assert not torch.equal(plain.x, away.x)


def test_images_without_a_text_of_their_own_are_inverted_without_a_condition(job, tmp_path, monkeypatch):
    Image.new("RGB", (16, 16), (200, 30, 30)).save(tmp_path / "one.png")
    monkeypatch.setattr(job.model.conditioning, "prompts", ["a blue circle"])
    drawn, _ = Translate(source=str(tmp_path / "one.png"))(job)
    assert drawn.request["caption"] == ["a blue circle"]
    cond = job.model.condition_of(drawn.request)
    image = torch.tensor([200.0, 30, 30])[None, :, None, None].expand(1, 3, 16, 16) / 127.5 - 1
    state = job.model.sampler.invert(job.model.denoiser, image, cond.null())
    expected = job.model.sample_from(state, job.model.noise_of(torch.tensor([0]), 0), cond)
    torch.testing.assert_close(drawn.x, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"words": {"violet": "blue"}}, "task.words: no held-out text has violet; texts are such as 'a "),
        ({"words": {"red": "blu"}}, "no word 'blu'; did you mean blue"),
        ({"source_prompts": ["a rde circle"]}, "task.source_prompts: 'a rde circle': .* did you mean red"),
        ({"source_prompts": ["a red circle"], "words": {"green": "blue"}}, "no text has green"),
        ({"features": ResidualFeatures(["up.99"])}, "task.features.blocks: no block up.99; did you mean up"),
        ({"cross_attention": CrossAttentionMaps(weights={"pink": 2}), "words": {"red": "blue"}}, "'pink' is in no"),
    ],
)
def test_texts_and_blocks_that_do_not_exist_are_one_line(job, settings, message):
    with pytest.raises(UserError, match=message) as error:
        Translate(**settings)(job)
    assert "\n" not in str(error.value)


BAD = [  # a fixture of a run, overrides, and what the message has
    ("finished", ["task=translate"], "this model has no condition; use a run of experiment=shapes_text"),
    ("finished_text", ["task=translate", "sampler=heun"], "use sampler=ddim"),
    ("finished_text", ["task=translate", "task.features.blocks=[middle]"], "no block middle; did you mean middle."),
    ("finished_text", ["task=prompt_to_prompt", "task.source=one.png"], "give those of one.png by task.source_prompts"),
    ("finished_text", ["task=translate", "task.self_attention.until=2"], "task.self_attention.until is a time in"),
    ("finished_text", ["task=translate", "feature_cache=uniform"], "[rule cached_features_are_used_by_the_task]"),
    ("finished_clips", ["task=translate", "task.words={red: blue}"], "this model is conditioned on class labels"),
]


@pytest.mark.parametrize(
    ("run", "overrides", "message"), BAD, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_cannot_be_translated_is_one_line(command, request, run, overrides, message):
    directory = request.getfixturevalue(run)
    Image.new("RGB", (16, 16)).save("one.png")
    chosen = [*overrides, *(["sampler=ddim"] if "sampler=heun" not in overrides else [])]
    done = command("sample", f"run={directory}", *chosen)
    assert done.code == 2
    line = done.err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line


def test_shapes_know_what_an_edit_has_kept():
    """A scene in another colour, and one at another place."""
    data = Shapes(num_train=1, num_val=1)
    scene = data.split("val").scene
    position = (scene.position + 4) % 9
    x = render(scene, 16)
    recoloured = render(scene._replace(colour=(scene.colour + 1) % 8), 16)
    moved = render(scene._replace(position=position, centre=CENTRES[position]), 16)
    names = ["shape", "position", "shape_and_position", "size", "colour"]
    for other, expected in ((x, [1, 1, 1, 1, 1]), (recoloured, [1, 1, 1, 1, 0]), (moved, [1, 0, 0, 1, 1])):
        same = data.unchanged(other, x)
        assert [int(same[name]) for name in names] == expected
    assert not data.unchanged(torch.zeros_like(x), x)["colour"].any()


def test_classes_are_translated_as_texts_are(configure, tmp_path):
    """Here of a U-ViT, which has no cross-attention: the maps of its self-attention are the source's."""
    sizes = ("backbone.channels=16", "backbone.depth=3", "backbone.num_heads=2", "conditioning.labels=[8]")
    cfg = configure(tmp_path / "run", "model=classifier_free", "backbone=uvit", *sizes, *DDIM)
    torch.manual_seed(0)
    model = build_diffusion(cfg).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    job = Job(model, build_data(cfg), tmp_path, 3, 0, 4)
    plain, injected = (Translate(**parts)(job)[0] for parts in (INJECTIONS["prompt_swap"], INJECTIONS["translate"]))
    assert plain.request["label"].tolist() == [8, 8, 8]
    assert not torch.equal(plain.x, injected.x)
    with pytest.raises(UserError, match=r"task.cross_attention compares texts, and this model is conditioned on class"):
        Translate(**INJECTIONS["prompt_to_prompt"])(job)
