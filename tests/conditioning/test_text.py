"""The encoder of words, and conditioning on captions and prompts."""

import copy
import itertools
import pickle

import pytest
import torch

from diffsweep.conditioning import TextConditioning, WordEncoder
from diffsweep.conditioning.text_encoder import TextCache, masked_mean
from diffsweep.configuration.build import build, sized
from diffsweep.configuration.check import check
from diffsweep.datasets import InMemory
from diffsweep.diffusion import Noise
from diffsweep.errors import UserError

WORDS = ["a", "small", "large", "red", "blue", "circle", "square", "at", "the", "top", "left"]
CAPTIONS = ["a small red circle at the top left", "A large, blue SQUARE.", "the left circle"]


@pytest.fixture
def encoder():
    """An encoder in float64, every parameter drawn anew, so that a special initialisation hides no mistake."""
    encoder = WordEncoder(WORDS, width=16).double()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


@pytest.fixture
def text(encoder):
    return lambda **settings: TextConditioning(encoder, 16, **settings)


def written_out(encoder, words):
    """Return the tokens (n, D) of one text by the formula: without padding or mask, one head after the other."""
    ids = [WORDS.index(word) + 1 for word in words]
    h = encoder.embed_words.weight[ids] + encoder.positions[: len(ids)]
    for block in encoder.blocks:
        x, attention = block.norm_attention(h), block.attention
        k, v = (x @ attention.to_kv.weight.T + attention.to_kv.bias).chunk(2, dim=1)
        q, heads = attention.to_q(x), []
        for head in range(attention.heads):
            part = slice(head * 16 // attention.heads, (head + 1) * 16 // attention.heads)
            weights = torch.exp(q[:, part] @ k[:, part].T / (16 / attention.heads) ** 0.5)
            heads.append(weights / weights.sum(1, keepdim=True) @ v[:, part])
        h = h + attention.to_out(torch.cat(heads, dim=1))
        h = h + block.mlp(block.norm_mlp(h))
    return encoder.norm_out(h)


def test_words_are_read_in_lower_case_without_punctuation(encoder):
    assert encoder.ids("  A small, RED circle!") == [1, 2, 4, 6]
    assert encoder.ids("top-left") == [10, 11]
    assert encoder.ids("") == []


@pytest.mark.parametrize("caption", CAPTIONS)
def test_a_text_is_the_transformer_of_its_words_alone(encoder, caption):
    """Tokens that are padded and masked in a batch equal those without either."""
    words = caption.lower().replace(",", "").replace(".", "").split()
    tokens, mask, pooled = (part[CAPTIONS.index(caption)] for part in encoder(CAPTIONS))
    expected = written_out(encoder, words)
    assert mask.tolist() == [True] * len(words) + [False] * (16 - len(words))
    torch.testing.assert_close(tokens[: len(words)], expected)
    torch.testing.assert_close(pooled, expected.mean(0))
    assert not tokens[len(words) :].any()


def test_padding_influences_no_token(encoder):
    """Neither the embedding of padding nor its positions change a token."""
    before = encoder(CAPTIONS)
    with torch.no_grad():
        encoder.embed_words.weight[0].fill_(100.0)
        encoder.positions[8:].fill_(-100.0)  # no caption has more than eight words
    for one, other in zip(before, encoder(CAPTIONS), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:])
def test_permuting_the_batch_permutes_the_output(encoder, order):
    for before, after in zip(encoder(CAPTIONS), encoder([CAPTIONS[i] for i in order]), strict=True):
        torch.testing.assert_close(after, before[list(order)], rtol=0, atol=1e-12)


def test_a_text_does_not_depend_on_the_others_of_its_batch(encoder):
    alone, among = encoder(CAPTIONS[2:]), encoder([*CAPTIONS, "a " * 16])
    for one, others in zip(alone, among, strict=True):
        assert one.shape[1:] == others.shape[1:]
        torch.testing.assert_close(one[0], others[2], rtol=0, atol=1e-12)


def test_the_order_of_words_counts_and_the_same_text_is_the_same(encoder):
    tokens = encoder(["red circle", "circle red", "red circle"]).tokens
    torch.testing.assert_close(tokens[0], tokens[2], rtol=0, atol=1e-12)
    assert not torch.allclose(tokens[0, :2], tokens[1, :2].flip(0))


def test_gradients_reach_the_used_words_and_positions_only(encoder):
    tokens, _, pooled = encoder(["red circle", "the red square"])
    ((tokens**3).sum() + pooled.sum()).backward()
    used = encoder.embed_words.weight.grad.any(dim=1).nonzero()[:, 0].tolist()
    assert used == sorted(WORDS.index(word) + 1 for word in ("red", "circle", "the", "square"))
    assert encoder.positions.grad.any(dim=1).tolist() == [True] * 3 + [False] * 13
    assert all(parameter.grad.any() for block in encoder.blocks for parameter in block.parameters())


def test_an_empty_text_has_no_tokens_and_finite_gradients(encoder):
    tokens, mask, pooled = encoder(["", "red circle"])
    (tokens.sum() + pooled.sum()).backward()
    assert mask.sum(1).tolist() == [0, 2]
    assert not tokens[0].any()
    assert not pooled[0].any()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_a_caption_is_read_once(encoder, monkeypatch):
    read, ids = [], encoder.ids
    monkeypatch.setattr(encoder, "ids", lambda text: read.append(text) or ids(text))
    for _ in range(3):
        encoder([*CAPTIONS, *CAPTIONS])
    assert read == CAPTIONS


def test_the_cache_of_texts_is_bounded():
    cached = TextCache(3)
    for text in ("first", "second", "third", "third", "fourth"):
        cached[text] = torch.zeros(1)
    assert list(cached) == ["second", "third", "fourth"]
    for copied in (copy.deepcopy(cached), pickle.loads(pickle.dumps(cached))):
        copied["fifth"] = torch.zeros(1)
        assert list(copied) == ["third", "fourth", "fifth"]


def test_the_masked_mean_is_over_the_tokens_that_the_mask_marks():
    tokens, mask = torch.randn(2, 3, 4), torch.tensor([[True, False, True], [False, False, False]])
    torch.testing.assert_close(masked_mean(tokens, mask)[0], (tokens[0, 0] + tokens[0, 2]) / 2)
    assert not masked_mean(tokens, mask)[1].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary": None}, "text needs a dataset with captions, such as dataset=shapes"),
        ({"vocabulary": []}, "text needs a dataset with captions"),
        ({"vocabulary": ["top left"]}, "'top left', which is not one word"),
        ({"vocabulary": ["a"], "num_heads": 3}, "num_heads=3 does not divide conditioning.context_dim=64"),
        ({"vocabulary": ["a"], "max_length": 0}, "max_length must be at least 1"),
        ({"vocabulary": ["a"], "depth": 0}, "depth must be at least 1"),
    ],
)
def test_wrong_settings_of_an_encoder_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        WordEncoder(**settings)


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("a smal circle", "'a smal circle': the vocabulary has no word 'smal'; did you mean small"),
        ("a zebra", "no word 'zebra'; words are a, small, large"),
        ("red " * 17, "has 17 words, and the encoder takes 16; .* conditioning.encoder.max_length=17"),
        ("?!", "'\\?!' has no words"),
    ],
)
def test_a_text_that_the_encoder_cannot_take_is_refused(encoder, text, caption, message):
    with pytest.raises(ValueError, match=message):
        encoder([caption])
    for key, value in (("prompts", ["a red circle", caption]), ("negative", caption)):
        with pytest.raises(ValueError, match=f"conditioning.{key}: .*{message}"):
            text(**{key: value})


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_prompt_is_refused(text, empty):
    with pytest.raises(ValueError, match="prompts has an empty text; write one, or use null for the captions of"):
        text(prompts=["a red circle", empty])
    with pytest.raises(ValueError, match="negative has an empty text; write one, or use null for the null condit"):
        text(negative=empty)
    with pytest.raises(ValueError, match="prompts is empty; give texts, or null"):
        text(prompts=[])


def test_sizes_are_those_of_the_encoder(encoder):
    for key, sizes in (("context_dim", (64, None)), ("vector_dim", (16, 64))):
        with pytest.raises(ValueError, match=f"conditioning.{key} is 64, .* use conditioning.{key}=16"):
            TextConditioning(encoder, sizes[0], vector_dim=sizes[1])


def test_a_condition_is_the_output_of_the_encoder(encoder, text):
    tokens, mask, pooled = encoder(CAPTIONS)
    cond = text()({"caption": CAPTIONS})
    assert text().sizes == {"context_dim": 16}
    assert torch.equal(cond.tokens, tokens)
    assert torch.equal(cond.token_mask, mask)
    assert cond.vector is None
    assert cond.is_null is None
    assert text(vector_dim=16).sizes == {"context_dim": 16, "vector_dim": 16}
    assert torch.equal(text(vector_dim=16)({"caption": CAPTIONS}).vector, pooled)


def test_an_empty_caption_is_the_null_condition(text):
    assert text()({"caption": ["a red circle", " "]}).is_null.tolist() == [False, True]


def test_a_request_has_prompts_in_turn_or_captions_in_their_order(text):
    samples = InMemory({"x": torch.zeros(3, 1), "caption": CAPTIONS})
    indices = torch.tensor([4, 0, 2])
    assert text().request(indices, samples) == {"caption": [CAPTIONS[1], CAPTIONS[0], CAPTIONS[2]]}
    request = text(prompts=["red circle", "blue square"], negative="square").request(indices + 1, samples)
    assert request == {
        "caption": ["blue square", "blue square", "blue square"],
        "negative": {"caption": ["square", "square", "square"]},
    }
    with pytest.raises(ValueError, match=r"no captions to draw samples for; set conditioning\.prompts"):
        text().request(indices, InMemory({"x": torch.zeros(3, 1)}))


def test_a_condition_and_its_negative_are_one_batch(encoder, text):
    """Both are joined for one call of the network, whatever the lengths of their texts."""
    conditioning = text(prompts=["a small red circle at the top left"], negative="square", vector_dim=16)
    cond = conditioning(conditioning.request(torch.arange(2), InMemory({"x": torch.zeros(3, 1)})))
    both = cond.cat(cond.opposite())
    torch.testing.assert_close(both.tokens[3], encoder(["square"]).tokens[0])
    assert both.token_mask.sum(1).tolist() == [8, 8, 1, 1]
    assert len(both) == 4


def test_captions_are_dropped_in_training_by_the_noise_of_the_samples(text):
    batch, noise = {"caption": CAPTIONS * 100}, Noise(0, torch.arange(300))
    conditioning = text(dropout=0.3)
    cond = conditioning.train()(batch, noise)
    assert 60 < cond.is_null.sum() < 120
    assert torch.equal(cond.is_null, conditioning(batch, noise).is_null)
    assert conditioning.eval()(batch, noise).is_null is None


def test_the_option_for_text_builds_and_names_what_it_lacks(compose):
    words = f"conditioning.encoder.vocabulary=[{','.join(WORDS)}]"
    cfg = compose("conditioning=text", words, "conditioning.vector_dim=${conditioning.context_dim}")
    conditioning = build(cfg, "conditioning")
    assert conditioning.sizes == {"context_dim": 64, "vector_dim": 64}
    cfg = sized(cfg)
    assert (cfg.condition.context_dim, cfg.condition.vector_dim) == (64, 64)
    assert conditioning({"caption": CAPTIONS}).tokens.shape == (3, 16, 64)
    with pytest.raises(UserError, match="needs a dataset with captions, such as dataset=shapes"):
        build(compose("conditioning=text"), "conditioning")  # of digits


def test_a_prompt_is_not_a_list_of_its_letters(compose):
    with pytest.raises(UserError, match=r"conditioning\.prompts=circle"):
        check(compose("conditioning=text", "conditioning.prompts=circle"))


@pytest.mark.parametrize(("option", "width", "length"), [("text_clip", 768, 77), ("text_t5", 4096, 120)])
def test_options_of_pretrained_encoders_pass_the_check_of_keys_and_types(compose, option, width, length):
    cfg = compose(f"conditioning={option}")
    check(cfg)
    assert (cfg.conditioning.context_dim, cfg.conditioning.vector_dim) == (width, None)
    assert cfg.conditioning.encoder.max_length == length
