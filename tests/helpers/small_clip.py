"""A small CLIP text encoder with random weights and a tokeniser of whole words, in the format of transformers."""

import torch

WORDS = ["a", "small", "large", "red", "blue", "green", "yellow", "circle", "square", "triangle", "at", "the", "top"]
WORDS += ["bottom", "left", "right", "photo", "of"]


def small_clip(width=16, length=10):
    """Return a CLIPTextModel and a tokeniser that pads to ``length`` tokens."""
    import tokenizers
    import transformers

    specials = ["<start>", "<end>"]
    vocabulary = {word: index for index, word in enumerate([*specials, *WORDS])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<end>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    pairs = [(special, vocabulary[special]) for special in specials]
    words.post_processor = tokenizers.processors.TemplateProcessing(single="<start> $A <end>", special_tokens=pairs)
    names = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>", "unk_token": "<end>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=length, **names)
    sizes = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": len(vocabulary), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers.CLIPTextConfig(**sizes, **ids, max_position_embeddings=length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.CLIPTextModel(config).eval()
    return model, tokenizer


def save_small_clip(folder, **sizes):
    """Write a small CLIP and its tokeniser into a folder, and return the folder."""
    for part in small_clip(**sizes):
        part.save_pretrained(folder)
    return folder
