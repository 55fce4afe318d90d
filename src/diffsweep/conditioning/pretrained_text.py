r"""Frozen text encoders, CLIP and T5, through the transformers library (``pip install diffsweep[text]``).

The tokens of a text are the last hidden states of a pretrained transformer f, which is never trained:
:math:`h_{1..L} = f(w_{1..L})`. So a text has the same tokens for ever, and they are computed once and kept on disk.
"""

import hashlib
import importlib
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffsweep.conditioning.embedding_store import EmbeddingStore
from diffsweep.conditioning.text_encoder import Encoded, TextCache, TextEncoder
from diffsweep.layers import send

CACHED_TEXTS = 2**12  # texts kept in memory; 77 tokens of 768 channels are 0.23 MB
BATCH_SIZE = 32  # texts that are encoded in one call


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ValueError(
            "text encoders of CLIP and T5 need the package transformers: pip install diffsweep[text]"
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the library's warnings of weights that a text encoder leaves out, and of long texts."""
    logging = _transformers().utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


class Pretrained:
    """A pretrained text model with its tokeniser, from the Hugging Face hub or a folder; each is loaded on first use.

    It is no ``nn.Module``, so the model that holds it does not register it: its weights are in no checkpoint, optimizer
    or moving average. They follow from its name, never require gradients, and the model is always in evaluation mode.

    Args:
        name: a model of the hub (``owner/model``) or a folder.
        model_class: the name of the class of transformers that holds the text encoder alone, such as ``CLIPTextModel``.
        model_types: the values of ``model_type`` in the model's ``config.json`` that are accepted.
        dtype: the type of the weights.

    Raises:
        ValueError: the package transformers is missing, no such model can be read, or it is of another type.
    """

    def __init__(self, name: str, model_class: str, model_types: tuple[str, ...], dtype: torch.dtype) -> None:
        self.name, self.model_class, self.dtype = name, model_class, dtype
        library = _transformers()
        try:
            with _quietly():
                self.folder = Path(str(library.utils.cached_file(name, "config.json"))).parent
                config = library.AutoConfig.from_pretrained(str(self.folder))
        except (OSError, ValueError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"conditioning.encoder.name={name} is neither a folder with a model nor one of the hub that can be "
                f"read ({why})"
            ) from error
        if config.model_type not in model_types:
            raise ValueError(
                f"conditioning.encoder.name={name} is a {config.model_type}; this encoder takes {model_types[0]}"
            )
        self.config = getattr(config, "text_config", config)  # CLIP's configuration has those of texts and of images

    @property
    def _commit(self) -> str | None:
        """The commit of the hub that the copy on disk is of; None for a folder of the user's."""
        is_copy = self.folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", self.folder.name)
        return self.folder.name if is_copy else None

    def _source(self) -> dict[str, Any]:
        """Return the arguments that load the other files from the same commit as the configuration."""
        commit = self._commit
        return {"pretrained_model_name_or_path": self.name, **({} if commit is None else {"revision": commit})}

    @cached_property
    def identity(self) -> str:
        """A string that identifies the model's content: the hub's commit, or the SHA-256 of the files in a folder."""
        if self._commit is not None:
            return self._commit
        content = hashlib.sha256()
        for path in sorted(path for path in self.folder.iterdir() if path.is_file()):
            content.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    content.update(block)
        return content.hexdigest()

    @cached_property
    def tokenizer(self) -> Any:
        with _quietly():
            return _transformers().AutoTokenizer.from_pretrained(**self._source())

    def tokenizer_of_length(self, length: int) -> Any:
        """Return another tokeniser, which cuts and pads texts to ``length`` tokens, its ``model_max_length``."""
        with _quietly():
            return _transformers().AutoTokenizer.from_pretrained(**self._source(), model_max_length=length)

    @cached_property
    def model(self) -> Any:
        load = getattr(_transformers(), self.model_class).from_pretrained
        # Loading draws numbers: a run must draw the same whether or not its captions are cached.
        with _quietly(), torch.random.fork_rng(devices=[]):
            return load(**self._source(), dtype=self.dtype).eval().requires_grad_(False)

    def tokenize(self, texts: Sequence[str], **settings: Any) -> tuple[Tensor, Tensor]:
        """Return the ids of the tokens of texts, int64, and their mask, bool, each (B, L), on the CPU.

        The mask is False for padding. ``settings`` are keyword arguments of the tokeniser, such as ``padding`` and
        ``max_length``.
        """
        with _quietly():
            inputs = self.tokenizer(list(texts), return_tensors="pt", **settings)
        return inputs.input_ids, inputs.attention_mask.bool()


class PretrainedTextEncoder(TextEncoder):
    """A frozen text encoder whose embeddings are kept in memory and on disk, so that each text is encoded once.

    The file on disk is named by a hash of the class, the model's content, ``max_length`` and ``dtype``. The weights are
    loaded only if a text is missing in it. Captions of data that are too long are cut, as in the papers; prompts that
    are too long are refused by :meth:`check`. Subclasses define the model and :meth:`encode`.

    Args:
        name: a model of the Hugging Face hub, or a folder in the format of the transformers library.
        max_length: L, the most tokens of a text, special ones included.
        cache_dir: the folder that holds the files of embeddings, in its subfolder ``text``.
        dtype: the type that the encoder computes and embeddings are kept in: ``float32``, or ``bfloat16``, which takes
            half the memory. (T5 overflows in float16.)

    Raises:
        ValueError: the model cannot be read, or ``max_length`` is below 2 or more than the model takes.
    """

    model_class: str
    model_types: tuple[str, ...]
    padding: str = "longest"
    like: Tensor  # empty; has the device and the dtype of the model that holds the encoder

    def __init__(
        self, name: str, max_length: int, cache_dir: str, dtype: Literal["float32", "bfloat16"] = "float32"
    ) -> None:
        super().__init__()
        self.pretrained = Pretrained(name, self.model_class, self.model_types, getattr(torch, dtype))
        self.width, self.max_length = self.pretrained.config.hidden_size, max_length
        positions = getattr(self.pretrained.config, "max_position_embeddings", None) or max_length
        if not 2 <= max_length <= positions:
            raise ValueError(
                f"conditioning.encoder.max_length must be from 2 to {positions if positions > 2 else 'more'}, "
                f"not {max_length}"
            )
        self.cache_dir = Path(cache_dir)
        self._tokens, self._pooled = TextCache(CACHED_TEXTS), TextCache(CACHED_TEXTS)
        self.register_buffer("like", torch.empty(0), persistent=False)

    @cached_property
    def store(self) -> EmbeddingStore:
        kind = (self.model_class, self.pretrained.identity, self.max_length, str(self.pretrained.dtype))
        return EmbeddingStore(
            self.cache_dir / "text" / f"{hashlib.sha256(repr(kind).encode()).hexdigest()[:32]}.sqlite"
        )

    def check(self, text: str) -> None:
        count = self.pretrained.tokenize([text])[0].shape[1]
        if count > self.max_length:
            raise ValueError(f"{text!r} has {count} tokens, and the encoder takes {self.max_length}; shorten it")

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenized([text])[0][0].tolist()
        return ids

    def ids_of_words(self, words: str) -> list[int]:
        ids: list[int] = self.pretrained.tokenize([words], add_special_tokens=False)[0][0].tolist()
        return ids

    def _tokenized(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the ids of the tokens that the model reads and their mask, each (B, n), cut at ``max_length``."""
        return self.pretrained.tokenize(texts, padding=self.padding, truncation=True, max_length=self.max_length)

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each text the n tokens that the network attends to, (n, D), and the pooled vector, (D,).

        They are computed by the frozen model, on the device of the module; subclasses define how.
        """

    def _embeddings(self, texts: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return tokens (n, D) and a vector (D,) of each text, on the CPU: from memory, from disk or encoded now."""
        known = {text: (self._tokens[text], self._pooled[text]) for text in texts if text in self._tokens}
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if not missing:
            return known
        read = self.store.read(missing)
        new = [text for text in missing if text not in read]
        for first in range(0, len(new), BATCH_SIZE):
            some = new[first : first + BATCH_SIZE]
            self.store.write(
                {t: {"tokens": a, "pooled": b} for t, (a, b) in zip(some, self._encode_now(some), strict=True)}
            )
        read |= self.store.read(new)  # what another process wrote first is what counts
        for text, parts in read.items():
            known[text] = self._tokens[text], self._pooled[text] = parts["tokens"], parts["pooled"]
        return known

    def _encode_now(self, texts: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        device = self.like.device
        self.pretrained.model.to(device)
        # What is kept must not depend on a run's precision.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return [(tokens.cpu(), pooled.cpu()) for tokens, pooled in self.encode(texts)]

    def forward(self, texts: Sequence[str]) -> Encoded:
        known, device = self._embeddings(texts), self.like.device
        tokens, pooled = zip(*(known[text] for text in texts), strict=True)
        counts = torch.tensor([len(part) for part in tokens])
        mask = torch.arange(self.max_length) < counts[:, None]  # (B, L)
        where = send(mask.flatten().nonzero()[:, 0], device)
        counted = send(torch.cat(tokens), device).to(self.like.dtype)  # padding is not sent
        padded = counted.new_zeros(mask.numel(), self.width).index_copy(0, where, counted)  # (B L, D)
        return Encoded(
            padded.unflatten(0, mask.shape), send(mask, device), send(torch.stack(pooled), device).to(self.like.dtype)
        )


class CLIPTextEncoder(PretrainedTextEncoder):
    """The frozen text transformer of CLIP (arXiv:2103.00020), used as in Stable Diffusion 1 (arXiv:2112.10752).

    Tokens are the last hidden states after the last norm, of texts padded to ``max_length``. Padding is not masked: the
    diffusion network attends to it as to other tokens. The transformer is causal, so padding does not change the tokens
    before it. ``pooled`` is the state at the token that ends the text, without CLIP's projection.
    """

    model_class, model_types, padding = "CLIPTextModel", ("clip", "clip_text_model"), "max_length"

    def encode(self, texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        ids, _ = self._tokenized(texts)
        out = self.pretrained.model(input_ids=ids.to(self.like.device))
        yield from zip(out.last_hidden_state, out.pooler_output, strict=True)


class T5TextEncoder(PretrainedTextEncoder):
    """The frozen encoder of T5 (arXiv:1910.10683), used as in Imagen (arXiv:2205.11487).

    PixArt-alpha (arXiv:2310.00426) has it too. Tokens are the last hidden states after the last norm. Padding is
    masked, in the encoder and for the network that attends to the tokens. ``pooled`` is the mean of the tokens that are
    no padding.
    """

    model_class, model_types = "T5EncoderModel", ("t5",)

    def encode(self, texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        ids, mask = self._tokenized(texts)
        ids, mask = ids.to(self.like.device), mask.to(self.like.device)
        for row, counts in zip(self.pretrained.model(input_ids=ids, attention_mask=mask)[0], mask, strict=True):
            yield row[counts], row[counts].mean(0)
