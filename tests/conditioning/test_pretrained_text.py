"""Frozen CLIP and T5, small ones with random weights, compared with what the transformers library computes."""

import multiprocessing
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch

from diffsweep.conditioning import CLIPTextEncoder, T5TextEncoder, TextConditioning
from diffsweep.conditioning.embedding_store import EmbeddingStore
from diffsweep.configuration.build import build
from diffsweep.diffusion import Noise

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["a", "small", "large", "red", "blue", "circle", "square", "at", "the", "top", "left"]
TEXTS = ["a small red circle at the top left", "blue square", "the left circle"]
WIDTH, LENGTH = 16, 12


def tokenizer(specials, template, **names):
    """Return a tokeniser of whole words, with the special tokens first in its vocabulary."""
    vocabulary = {word: index for index, word in enumerate([*specials, *WORDS])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=names["unk_token"]))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    pairs = [(special, vocabulary[special]) for special in specials]
    words.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=pairs)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, **names)


def save_clip(folder, seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": 2 + len(WORDS), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers.CLIPTextConfig(**sizes, **ids, max_position_embeddings=LENGTH, attention_dropout=0.3)
    transformers.CLIPTextModel(config).save_pretrained(folder)
    end = {"eos_token": "<end>", "pad_token": "<end>", "unk_token": "<end>"}  # as CLIP's
    tokenizer(["<start>", "<end>"], "<start> $A <end>", bos_token="<start>", **end).save_pretrained(folder)


def save_t5(folder, seed=0):
    torch.manual_seed(seed)
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.3}
    config = transformers.T5Config(vocab_size=3 + len(WORDS), feed_forward_proj="gated-gelu", **sizes)
    transformers.T5EncoderModel(config).save_pretrained(folder)
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer(["<pad>", "</s>", "<unk>"], "$A </s>", **names).save_pretrained(folder)


KINDS = {
    "clip": SimpleNamespace(save=save_clip, encoder=CLIPTextEncoder, model="CLIPTextModel"),
    "t5": SimpleNamespace(save=save_t5, encoder=T5TextEncoder, model="T5EncoderModel"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each kind, with a model and its tokeniser; tests must not change them."""
    made = {}
    for name, kind in KINDS.items():
        made[name] = tmp_path_factory.mktemp(name)
        kind.save(made[name])
    return made


@pytest.fixture
def make(folders, tmp_path):
    """``make("clip", ...)`` returns an encoder with a cache for this test alone."""

    def make(kind, folder=None, **settings):
        defaults = {"max_length": LENGTH, "cache_dir": str(tmp_path / "cache")}
        return KINDS[kind].encoder(str(folder or folders[kind]), **(defaults | settings))

    return make


@pytest.fixture
def library(folders):
    """``ids, output = library("clip", texts, ...)`` returns what the library itself computes."""

    def library(kind, texts, mask=True, **settings):
        words = transformers.AutoTokenizer.from_pretrained(folders[kind])
        model = getattr(transformers, KINDS[kind].model).from_pretrained(folders[kind]).eval()
        inputs = words(texts, return_tensors="pt", **settings)
        attention = {"attention_mask": inputs.attention_mask} if mask else {}
        with torch.no_grad():
            return inputs, model(input_ids=inputs.input_ids, **attention)

    return library


@pytest.fixture
def calls(monkeypatch):
    """The texts that models have encoded, in order."""
    encoded = []
    for kind in KINDS.values():

        def counted(self, texts, encode=kind.encoder.encode):
            encoded.extend(texts)
            return encode(self, texts)

        monkeypatch.setattr(kind.encoder, "encode", counted)
    return encoded


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_clip_is_the_librarys_last_state_of_padded_texts(make, library):
    """Stable Diffusion uses no mask."""
    tokens, mask, pooled = make("clip")(TEXTS)
    _, expected = library("clip", TEXTS, mask=False, padding="max_length", max_length=LENGTH)
    torch.testing.assert_close(tokens, expected.last_hidden_state)
    torch.testing.assert_close(pooled, expected.pooler_output)
    assert mask.all()


@pytest.mark.parametrize("text", TEXTS)
def test_padding_does_not_change_the_tokens_of_clip_before_it(make, library, text):
    tokens, _, pooled = make("clip")([text])
    inputs, expected = library("clip", [text])
    count = inputs.input_ids.shape[1]
    torch.testing.assert_close(tokens[:, :count], expected.last_hidden_state)
    torch.testing.assert_close(pooled, tokens[:, count - 1])  # the state at the end of the text


@pytest.mark.parametrize("text", TEXTS)
def test_t5_is_the_librarys_last_state_of_the_text_alone(make, library, text):
    """The text is in a batch with others, whose padding is masked."""
    tokens, mask, pooled = (part[TEXTS.index(text)] for part in make("t5")(TEXTS))
    inputs, expected = library("t5", [text])
    count = inputs.input_ids.shape[1]
    assert mask.tolist() == [True] * count + [False] * (LENGTH - count)
    torch.testing.assert_close(tokens[:count], expected.last_hidden_state[0])
    torch.testing.assert_close(pooled, expected.last_hidden_state[0].mean(0))
    assert not tokens[count:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_of_the_positions_that_are_attended_to(make, library, kind):
    """Those of single words, without special tokens, are found among them."""
    encoder = make(kind)
    ids, words = encoder.ids(TEXTS[0]), encoder.ids_of_words(TEXTS[0])
    assert len(ids) == int(encoder([TEXTS[0]]).mask.sum())
    inputs, _ = library(kind, [TEXTS[0]])
    assert ids[: inputs.input_ids.shape[1]] == inputs.input_ids[0].tolist()
    assert words == [each for each in ids if each in words]
    assert len(words) < len(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_data_that_are_too_long_are_cut_as_the_library_cuts_them(make, library, kind):
    tokens, mask, _ = make(kind)(["red " * 30])
    _, expected = library(kind, ["red " * 30], truncation=True, max_length=LENGTH)
    assert mask.all()
    torch.testing.assert_close(tokens, expected.last_hidden_state)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_encoded_once_ever(make, calls, kind):
    """One encoder encodes it; a second one reads it from disk and never loads the weights."""
    first, second = make(kind), make(kind)
    once = first([*TEXTS, *TEXTS])
    assert calls == TEXTS
    assert same(first([*TEXTS, *TEXTS]), once)
    assert same(second([*TEXTS, *TEXTS]), once)
    assert calls == TEXTS
    assert "model" not in vars(second.pretrained)
    assert "tokenizer" not in vars(second.pretrained)
    second([TEXTS[1], "a square"])
    assert calls == [*TEXTS, "a square"]
    make(kind, cache_dir=str(second.cache_dir.parent / "other"))(TEXTS[:1])
    assert calls == [*TEXTS, "a square", TEXTS[0]]


def test_more_texts_than_one_batch_one_query_and_the_memory_hold_are_encoded_once(make, calls, monkeypatch):
    monkeypatch.setattr("diffsweep.conditioning.pretrained_text.BATCH_SIZE", 2)
    monkeypatch.setattr("diffsweep.conditioning.pretrained_text.CACHED_TEXTS", 3)
    monkeypatch.setattr("diffsweep.conditioning.embedding_store.TEXTS_PER_QUERY", 2)
    encoder = make("t5")
    once = encoder(WORDS)
    assert len(encoder._tokens) == len(encoder._pooled) == 3
    assert same(encoder(WORDS), once)
    assert calls == WORDS


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_identified_by_the_content_of_the_model_not_its_name(make, folders, calls, kind, tmp_path):
    first = make(kind)
    once = first(TEXTS)
    shutil.copytree(folders[kind], tmp_path / "moved")
    assert same(make(kind, tmp_path / "moved")(TEXTS), once)
    assert calls == TEXTS
    KINDS[kind].save(tmp_path / "moved", seed=1)
    assert not torch.allclose(make(kind, tmp_path / "moved")(TEXTS).tokens, once.tokens, atol=0.01)
    make(kind, dtype="bfloat16")(TEXTS)
    make(kind, max_length=LENGTH - 1)(TEXTS)
    assert calls == TEXTS * 4
    assert len(list((first.cache_dir / "text").glob("*.sqlite"))) == 4


def test_a_copy_of_the_hub_is_identified_by_its_commit(make, folders, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    for name, identity in ((commit, True), ("mine", False)):
        shutil.copytree(folders["t5"], tmp_path / "snapshots" / name)
        encoder = make("t5", tmp_path / "snapshots" / name)
        assert (encoder.pretrained.identity == name) is identity
        assert torch.equal(encoder(TEXTS).tokens, make("t5")(TEXTS).tokens)


def test_embeddings_of_half_precision_are_kept_in_half_precision(make):
    half, whole = make("t5", dtype="bfloat16"), make("t5")
    torch.testing.assert_close(half(TEXTS).tokens, whole(TEXTS).tokens, rtol=0.05, atol=0.05)
    assert half(TEXTS).tokens.dtype == torch.float32
    assert half.store.read(TEXTS)[TEXTS[0]]["tokens"].dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_frozen_and_no_part_of_the_model(make, kind, tmp_path):
    """Training mode would change the tokens, since both models have dropout."""
    encoder, reference = make(kind, cache_dir=str(tmp_path / "other")), make(kind)
    before = torch.get_rng_state()
    encoder.train()(TEXTS)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(encoder(TEXTS), reference.eval()(TEXTS))
    assert not encoder.state_dict()
    assert not list(encoder.parameters())
    assert not any(weight.requires_grad for weight in encoder.pretrained.model.parameters())
    assert not any(module.training for module in encoder.pretrained.model.modules())
    assert not encoder(TEXTS).tokens.requires_grad


def test_kept_embeddings_do_not_depend_on_the_precision_of_the_run(make, tmp_path):
    whole, mixed = make("t5"), make("t5", cache_dir=str(tmp_path / "other"))
    with torch.autocast("cpu", torch.bfloat16):
        tokens = mixed(TEXTS).tokens
    assert torch.equal(tokens, whole(TEXTS).tokens)
    assert mixed.to(torch.bfloat16)(TEXTS).tokens.dtype == torch.bfloat16  # as the rest of the model


def written(path, process):
    store = EmbeddingStore(path)
    for text in range(40):
        store.write({str(text): {"tokens": torch.full((3, 2), float(process))}})


def test_processes_write_at_the_same_time_and_the_first_text_written_stays(tmp_path):
    store, context = EmbeddingStore(tmp_path / "new" / "store.sqlite"), multiprocessing.get_context("fork")
    assert store.read(["0"]) == {}
    processes = [context.Process(target=written, args=(store.path, index)) for index in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    found = store.read([str(text) for text in range(41)])
    assert sorted(found, key=int) == [str(text) for text in range(40)]
    assert all(len(parts["tokens"].unique()) == 1 for parts in found.values())
    written(store.path, 7)
    again = store.read(list(found))
    assert all(torch.equal(again[text]["tokens"], found[text]["tokens"]) for text in found)


def test_a_text_with_quotes_and_unicode_is_stored(tmp_path):
    store, texts = EmbeddingStore(tmp_path / "store.sqlite"), ['it\'s "red"; DROP TABLE embeddings', "grün 圆 🔴", ""]
    store.write({text: {"tokens": torch.full((1,), float(index))} for index, text in enumerate(texts)})
    assert [float(store.read(texts)[text]["tokens"]) for text in texts] == [0.0, 1.0, 2.0]


def test_the_options_for_clip_and_t5_build(compose, folders, tmp_path):
    places = [f"paths.cache_dir={tmp_path}", f"conditioning.context_dim={WIDTH}"]
    for kind, length in (("clip", LENGTH), ("t5", 120)):
        name = f"conditioning.encoder.name={folders[kind]}"
        cfg = compose(f"conditioning=text_{kind}", name, f"conditioning.encoder.max_length={length}", *places)
        conditioning = build(cfg, "conditioning")
        cond = conditioning({"caption": TEXTS})
        assert cond.tokens.shape == (3, length, WIDTH)
        assert torch.equal(cond.tokens, conditioning.encoder(TEXTS).tokens)
    assert len(list((tmp_path / "text").glob("*.sqlite"))) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_width_that_is_not_the_encoders_names_the_right_one(make, kind):
    with pytest.raises(ValueError, match=r"conditioning\.context_dim is 768, .* use conditioning\.context_dim=16"):
        TextConditioning(make(kind), 768)


@pytest.mark.parametrize(("kind", "count"), [("clip", 14), ("t5", 13)])
def test_a_prompt_that_is_too_long_is_refused(make, kind, count):
    TextConditioning(make(kind), WIDTH, prompts=TEXTS, negative="red " * 10)
    with pytest.raises(ValueError, match=f"conditioning.prompts: .* has {count} tokens, and the encoder takes 12"):
        TextConditioning(make(kind), WIDTH, prompts=["red", "red " * 12])


def test_a_model_that_cannot_be_loaded_is_refused_in_one_line(make, folders, tmp_path):
    for kind, folder, message in (
        ("clip", tmp_path / "nothing", "nothing is neither a folder with a model nor one of the hub"),
        ("clip", tmp_path, "is neither a folder with a model"),
        ("clip", folders["t5"], "is a t5; this encoder takes clip"),
        ("t5", folders["clip"], "is a clip_text_model; this encoder takes t5"),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            make(kind, folder)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("kind", "length"), [("clip", LENGTH + 1), ("clip", 1), ("t5", 0)])
def test_a_length_for_which_the_encoder_has_no_positions_is_refused(make, kind, length):
    with pytest.raises(ValueError, match=f"conditioning.encoder.max_length must be from 2 to .* not {length}"):
        make(kind, max_length=length)


def test_without_the_library_one_line_names_what_to_install(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"need the package transformers: pip install diffsweep\[text\]$"):
        make("clip")


def test_the_null_condition_may_be_the_encoding_of_the_empty_text(make):
    """As in Stable Diffusion: in dropout, for empty captions, and where guidance leads away from it."""
    conditioning = TextConditioning(make("clip"), WIDTH, prompts=TEXTS, dropout=0.5, null_condition="empty_text")
    empty, _, _ = conditioning.encoder([""])
    indices = torch.arange(40)
    request = conditioning.request(indices, None)
    cond = conditioning(request, noise=Noise(0, indices))
    assert cond.is_null is None
    dropped = (cond.tokens == empty).flatten(1).all(1)
    assert 8 < dropped.sum() < 32
    kept, _, _ = conditioning.encoder(
        [text for text, gone in zip(request["caption"], dropped, strict=True) if not gone]
    )
    assert torch.equal(cond.tokens[~dropped], kept)
    assert torch.equal(cond.opposite().tokens, empty.expand_as(cond.tokens))
    assert torch.equal(conditioning.condition({"caption": [""]}).tokens, empty)
    with pytest.raises(ValueError, match="null_condition is learned or empty_text"):
        TextConditioning(make("clip"), WIDTH, null_condition="none")
