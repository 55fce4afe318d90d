"""Words of an image's style (arXiv:2211.13203): attention that begins as a known word, and encoders of the image."""

import json

import pytest
import torch

from diffsweep.conditioning import CLIPImageEncoder, Patches, StyleAttention, WordEncoder

WORDS = ["a", "red", "blue", "circle"]


def image(seed=0, size=8):
    return torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    attention = StyleAttention(Patches(3, 8), width=16)
    encoder = WordEncoder(WORDS, width=16, new_words=["sks"], initial="red", attention=attention).eval()
    encoder.look_at(image()[None])
    return encoder


def drawn_anew(attention):
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return attention


def test_before_training_the_word_is_the_known_one_to_the_bit(encoder):
    """In training mode too: dropout is before a map that is 0."""
    ours, known = encoder(["a sks circle", "sks"]), encoder(["a red circle", "red"])
    assert all(torch.equal(a, b) for a, b in zip(ours, known, strict=True))
    assert torch.equal(encoder.train()(["a sks circle", "sks"]).tokens, known.tokens)


def test_gradients_reach_the_attention_and_the_words_are_no_weights(encoder):
    assert "new_words" not in dict(encoder.named_parameters())
    drawn_anew(encoder.attention)
    encoder(["a sks circle"]).tokens.square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in encoder.attention.parameters())
    others = [encoder.embed_words.weight.grad[encoder.ids("red")[0]], encoder.embed_words.weight.grad[2 + 1]]
    assert not any(bool(grad.any()) for grad in others)  # "red" is where the new word begins, and "blue" is in no text


def test_the_words_depend_on_the_image_and_not_on_the_order_of_its_tokens(encoder):
    attention = drawn_anew(encoder.attention)
    first = encoder(["sks"]).tokens
    order = torch.randperm(4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        attention.encoding.copy_(attention.encoding[order])
        assert (encoder(["sks"]).tokens - first).abs().max() > 1e-3
        attention.positions.copy_(attention.positions[order])
    torch.testing.assert_close(encoder(["sks"]).tokens, first)
    attention.look_at(image(1))
    assert (encoder(["sks"]).tokens - first).abs().max() > 1e-3


def test_one_token_is_attended_to_alone():
    """The softmax over one token is 1, so one block is written out; the only vector attends to itself likewise."""
    torch.manual_seed(0)
    attention = drawn_anew(StyleAttention(Patches(3, 8, patch_size=8), width=16, depth=1)).eval()
    attention.look_at(image())
    v = torch.randn(1, 16)
    block, h = attention.blocks[0], attention.to_tokens(attention.norm_in(attention.encoding)) + attention.positions
    first = v + block.attention.to_out(block.attention.to_qkv(block.norm_attention(v))[:, 32:])
    second = first + block.cross.to_out(block.cross.to_kv(h)[:, 16:])
    third = second + block.mlp(block.norm_mlp(second))
    torch.testing.assert_close(attention(v), v + attention.to_out(attention.norm_out(third)))


def test_patches_are_the_pixels_row_after_row():
    tokens = Patches(3, 8)(image())
    assert tokens.shape == (4, 48)
    assert torch.equal(tokens[1].view(3, 4, 4), image()[:, :4, 4:])


@pytest.mark.faults
@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Patches(3, 8, 3), r"encoder.patch_size=3 does not divide the 8-pixel image; use one of 1, 2, 4, 8"),
        (lambda: StyleAttention(Patches(3, 8), 16, num_heads=3), r"attention.num_heads=3 does not divide"),
        (lambda: StyleAttention(Patches(3, 8), 16, depth=0), r"concept.attention.depth must be at least 1, not 0"),
        (lambda: StyleAttention(Patches(3, 8), 16, dropout=1.0), r"concept.attention.dropout must be in \[0, 1\)"),
        (lambda: CLIPImageEncoder(None).check(), r"concept.attention.encoder.path=None: give a folder of a clip model"),
    ],
)
def test_settings_that_are_not_possible_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_clip_gives_its_last_hidden_states(tmp_path):
    """A small network of random weights in the form of the public one, with text beside it as these have."""
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(text_config=small, vision_config={**small, "image_size": 32, "patch_size": 8})
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std}))
    with pytest.raises(ValueError, match=r"has tokens=17, and concept.attention.encoder.tokens is 257; use .*=17"):
        CLIPImageEncoder(str(tmp_path)).check()
    x = torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(0))
    attention = StyleAttention(CLIPImageEncoder(str(tmp_path), tokens=17, width=16), width=8)
    attention.look_at(x / 127.5 - 1)
    pixels = (x / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        expected = model.vision_model(pixel_values=pixels[None]).last_hidden_state[0]
    torch.testing.assert_close(attention.encoding, expected, rtol=1e-4, atol=1e-5)
    assert not any(name.startswith("encoder") for name in attention.state_dict())
