"""Frozen text encoders, CLIP and T5, through the transformers library (``pip install diffsweep[text]``)."""

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
from diffsweep.conditioning.text_encoder import Encoded, TextCache, TextEncoder, send

CACHED_TEXTS = 2**12  # texts; 77 tokens of 768 channels are 0.23 MB
AT_ONCE = 32  # texts that are encoded in one call


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ValueError(
            "text encoders of CLIP and T5 need the package transformers: pip install diffsweep[text]"
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the library's warnings of weights that a text encoder leaves out, and of long texts."""
    logging = _transformers().utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


class Pretrained:
    """A text model of the hub or of a folder, with its tokeniser; each part is read when it is first asked for.

    Not an ``nn.Module``, and so no part of the model that holds it: its weights are in no checkpoint, optimizer or average, and
    follow from its name. They never require gradients and are never in training mode.

    Args:
        name: of the hub (``owner/model``) or a folder.
        model_class: the class of transformers that has only the text encoder.
        model_types: what ``model_type`` of its configuration may be.
        dtype: of its weights.
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
                f"conditioning.encoder.name={name} is neither a folder with a model nor one of the hub that can be read ({why})"
            ) from error
        if config.model_type not in model_types:
            raise ValueError(
                f"conditioning.encoder.name={name} is a {config.model_type}; this encoder takes {model_types[0]}"
            )
        self.config = getattr(config, "text_config", config)  # CLIP's has one of images beside

    @property
    def _commit(self) -> str | None:
        """The commit that the hub's copy on disk is of; None of a folder of one's own."""
        is_copy = self.folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", self.folder.name)
        return self.folder.name if is_copy else None

    def _place(self) -> dict[str, Any]:
        """Where the other files are: of the same commit as the configuration."""
        commit = self._commit
        return {"pretrained_model_name_or_path": self.name, **({} if commit is None else {"revision": commit})}

    @cached_property
    def identity(self) -> str:
        """A hash of the content: of the hub, the commit, which is one of every file; of a folder, of its files themselves."""
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
            return _transformers().AutoTokenizer.from_pretrained(**self._place())

    @cached_property
    def model(self) -> Any:
        load = getattr(_transformers(), self.model_class).from_pretrained
        with (
            _quietly(),
            torch.random.fork_rng(devices=[]),
        ):  # a run draws the same whether or not its captions are cached
            return load(**self._place(), dtype=self.dtype).eval().requires_grad_(False)

    def tokenize(self, texts: Sequence[str], **settings: Any) -> tuple[Tensor, Tensor]:
        """Ids and mask, each (B, L), on the CPU."""
        with _quietly():
            inputs = self.tokenizer(list(texts), return_tensors="pt", **settings)
        return inputs.input_ids, inputs.attention_mask.bool()


class PretrainedTextEncoder(TextEncoder):
    """A frozen text encoder whose embeddings are remembered, in memory and on disk: a text is encoded once.

    On disk they stand under what identifies them, a hash of the content of the model with ``max_length`` and ``dtype``. Where
    all texts are there, the weights are not loaded.

    Texts of data that are too long are cut, as the papers do; prompts that are too long are refused.

    Args:
        name: of the hub, or a folder in the library's format.
        max_length: L; a text has at most as many tokens, the special ones included.
        cache_dir: where embeddings are kept, in ``text``.
        dtype: what the encoder computes and embeddings are kept in; bfloat16 takes half the memory. (T5 overflows in float16.)
    """

    model_class: str
    model_types: tuple[str, ...]
    place: Tensor  # of nothing: knows the device and the dtype of the model that it is in

    def __init__(
        self, name: str, max_length: int, cache_dir: str, dtype: Literal["float32", "bfloat16"] = "float32"
    ) -> None:
        super().__init__()
        self.pretrained = Pretrained(name, self.model_class, self.model_types, getattr(torch, dtype))
        self.width, self.max_length = self.pretrained.config.hidden_size, max_length
        positions = getattr(self.pretrained.config, "max_position_embeddings", None) or max_length
        if not 2 <= max_length <= positions:
            raise ValueError(
                f"conditioning.encoder.max_length is from 2 to {positions if positions > 2 else 'more'}, not {max_length}"
            )
        self.cache_dir = Path(cache_dir)
        self._tokens, self._pooled = TextCache(CACHED_TEXTS), TextCache(CACHED_TEXTS)
        self.register_buffer("place", torch.empty(0), persistent=False)

    @cached_property
    def store(self) -> EmbeddingStore:
        kind = (self.model_class, self.pretrained.identity, self.max_length, str(self.pretrained.dtype))
        return EmbeddingStore(
            self.cache_dir / "text" / f"{hashlib.sha256(repr(kind).encode()).hexdigest()[:32]}.sqlite"
        )

    def check(self, text: str) -> None:
        count = self.pretrained.tokenize([text])[0].shape[1]
        if count > self.max_length:
            raise ValueError(f"{text!r} has {count} tokens, and the encoder takes {self.max_length}; say it shorter")

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each text the tokens that count, (n, D), and the pooled vector, (D,), by the frozen model."""

    def _recall(self, texts: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Tokens (n, D) and pooled vector (D,) of each text, on the CPU; what was never encoded is encoded."""
        known = {text: (self._tokens[text], self._pooled[text]) for text in texts if text in self._tokens}
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if not missing:
            return known
        read = self.store.read(missing)
        new = [text for text in missing if text not in read]
        for first in range(0, len(new), AT_ONCE):
            some = new[first : first + AT_ONCE]
            self.store.write(
                {t: {"tokens": a, "pooled": b} for t, (a, b) in zip(some, self._frozen(some), strict=True)}
            )
        read |= self.store.read(new)  # of what another process wrote first, its bits
        for text, parts in read.items():
            known[text] = self._tokens[text], self._pooled[text] = parts["tokens"], parts["pooled"]
        return known

    def _frozen(self, texts: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        device = self.place.device
        self.pretrained.model.to(device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):  # what is kept is of no run's precision
            return [(tokens.cpu(), pooled.cpu()) for tokens, pooled in self.encode(texts)]

    def forward(self, texts: Sequence[str]) -> Encoded:
        known, device = self._recall(texts), self.place.device
        tokens, pooled = zip(*(known[text] for text in texts), strict=True)
        counts = torch.tensor([len(part) for part in tokens])
        mask = torch.arange(self.max_length) < counts[:, None]  # (B, L)
        where = send(mask.flatten().nonzero()[:, 0], device)
        counted = send(torch.cat(tokens), device).to(self.place.dtype)  # padding is not sent
        padded = counted.new_zeros(mask.numel(), self.width).index_copy(0, where, counted)  # (B L, D)
        return Encoded(
            padded.unflatten(0, mask.shape), send(mask, device), send(torch.stack(pooled), device).to(self.place.dtype)
        )


class CLIPTextEncoder(PretrainedTextEncoder):
    """CLIP's text transformer (arXiv:2103.00020), as Stable Diffusion 1 uses it (arXiv:2112.10752): the last hidden state after
    the last norm, of texts padded to ``max_length``. Padding is not masked: it counts as tokens that are attended to. The
    transformer is causal, so that what stands before does not see it. ``pooled`` is the state at the end of the text, without
    CLIP's projection."""

    model_class, model_types = "CLIPTextModel", ("clip", "clip_text_model")

    def encode(self, texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        ids, _ = self.pretrained.tokenize(texts, padding="max_length", truncation=True, max_length=self.max_length)
        out = self.pretrained.model(input_ids=ids.to(self.place.device))
        yield from zip(out.last_hidden_state, out.pooler_output, strict=True)


class T5TextEncoder(PretrainedTextEncoder):
    """The encoder of T5 (arXiv:1910.10683), as Imagen (arXiv:2205.11487) and PixArt-alpha (arXiv:2310.00426) use it: the last
    hidden state after the last norm. Padding is masked, in the encoder and for who attends to its tokens. ``pooled`` is the mean
    of the tokens that count."""

    model_class, model_types = "T5EncoderModel", ("t5",)

    def encode(self, texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        ids, mask = self.pretrained.tokenize(texts, padding=True, truncation=True, max_length=self.max_length)
        ids, mask = ids.to(self.place.device), mask.to(self.place.device)
        for row, counts in zip(self.pretrained.model(input_ids=ids, attention_mask=mask)[0], mask, strict=True):
            yield row[counts], row[counts].mean(0)
