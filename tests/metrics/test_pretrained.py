"""Features of DINOv2 and CLIP from folders: small networks of random weights in the form of the public ones."""

import json

import pytest
import torch

from diffsweep.configuration.build import build
from diffsweep.configuration.preflight import preflight
from diffsweep.datasets import Shapes
from diffsweep.errors import UserError
from diffsweep.metrics import CLIPFeatures, DINOv2Features, GenerationMetrics
from diffsweep.metrics.frechet import frechet_distance

transformers = pytest.importorskip("transformers")
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def write_processing(folder):
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return folder


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dinov2-tiny")
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).save_pretrained(folder)
    return write_processing(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Return a folder with a small CLIP whose words are the letters."""
    folder = tmp_path_factory.mktemp("clip-tiny")
    tokens = [
        "<|startoftext|>",
        "<|endoftext|>",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz"),
    ]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(tokens), "max_position_embeddings": 12, "eos_token_id": 1, "bos_token_id": 0}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=10
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    return write_processing(folder)


def images(count, size, seed=0):
    levels = torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed))
    return levels.float(), levels / 127.5 - 1


def test_features_of_dinov2_are_the_normalised_class_token(dinov2):
    levels, x = images(3, 56)
    extractor = DINOv2Features(str(dinov2), image_size=56, accelerator="cpu")
    features, logits = extractor(x + 0.3 / 127.5)
    model = transformers.Dinov2Model.from_pretrained(dinov2)
    pixels = (levels / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert logits.shape == (3, 0)
    assert features.shape[1] == extractor.num_features == 12
    assert extractor(images(2, 20)[1])[0].shape == (2, 12)  # enlarged
    other = DINOv2Features(str(dinov2), image_size=56, resize="legacy", accelerator="cpu")
    assert other.weights_hash != extractor.weights_hash


def test_fd_dinov2_has_its_name_and_no_inception_score(dinov2, tmp_path):
    data = Shapes(image_size=16, num_train=40, num_val=30)
    extractor = DINOv2Features(str(dinov2), image_size=28, accelerator="cpu")
    metrics = GenerationMetrics(lambda: extractor, 20, kid_subset_size=10, resamples=2, cache_dir=str(tmp_path))
    x = data.split("val")["x"][:20].flip(2)
    numbers = metrics(x, data)
    expected = frechet_distance(extractor(x)[0], extractor(data.split("train")["x"])[0])
    assert numbers["fd_dinov2"] == pytest.approx(expected, rel=1e-3)
    assert {"fd_dinov2_real", "fd_dinov2_low", "kid", "precision", "recall"} <= numbers.keys()
    assert not {"fid", "is", "is_real"} & numbers.keys()
    assert metrics.protocol()["image_size_of_features"] == 28


def test_the_clip_score_is_the_cosine_of_images_and_captions(clip, tmp_path):
    levels, x = images(4, 32)
    captions = ["a red dot", "bb", "a very long caption of many letters", "c"]
    extractor = CLIPFeatures(str(clip), image_size=32, accelerator="cpu")
    model, tokenizer = transformers.CLIPModel.from_pretrained(clip), transformers.CLIPTokenizer.from_pretrained(clip)
    pixels = (levels / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        seen = model.get_image_features(pixel_values=pixels).pooler_output
        scores = []
        for image, caption in zip(seen, captions, strict=True):
            ids = tokenizer([caption], return_tensors="pt", truncation=True, max_length=12)
            text = model.get_text_features(**ids).pooler_output[0]
            scores.append(max(100 * float(image @ text / image.norm() / text.norm()), 0.0))
    found = extractor.caption_score(extractor(x)[0], captions)
    assert found == pytest.approx(sum(scores) / 4, rel=1e-4, abs=1e-4)
    assert max(scores) > 0
    data = Shapes(image_size=16, num_train=40, num_val=30)
    metrics = GenerationMetrics(lambda: extractor, 20, kid_subset_size=10, resamples=0, cache_dir=str(tmp_path))
    numbers = metrics(data.split("val")["x"][:20], data, {"caption": ["a"] * 20})
    assert "fid_clip" in numbers
    assert 0 <= numbers["clip_score"] <= 100


def test_the_options_take_folders_and_refuse_others(compose, dinov2, clip, tmp_path):
    for option, folder, size in (("dinov2", dinov2, 28), ("clip", clip, 32)):
        words = ("dataset=shapes", f"metrics={option}", f"metrics.features.image_size={size}", "trainer=cpu")
        cfg = compose(*words, f"metrics.features.path={folder}")
        preflight(cfg)
        assert build(cfg, "metrics").features.num_features in (10, 12)
        cfg.metrics.features.path = None
        with pytest.raises(UserError, match="give a folder"):
            preflight(cfg)  # before a run starts
    for path, message in (
        (None, "give a folder of a dinov2 model"),
        (str(tmp_path), "give a folder of a dinov2 model"),
        (str(clip), "is a clip model, and these features are of dinov2"),
    ):
        with pytest.raises(ValueError, match=message):
            DINOv2Features(path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    with pytest.raises(ValueError, match=r"no preprocessor_config\.json"):
        DINOv2Features(str(tmp_path))
    write_processing(tmp_path)
    with pytest.raises(ValueError, match="cannot be read") as refused:
        DINOv2Features(str(tmp_path))
    assert "\n" not in str(refused.value)
