"""A file on disk for the embeddings of texts, so that a frozen text encoder encodes each text once."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from torch import Tensor

TEXTS_PER_QUERY = 500  # old builds of SQLite take at most 999 placeholders in a query
WAIT_SECONDS = 60.0  # for another process to finish writing


class EmbeddingStore:
    """A store of named tensors for each text, in one SQLite file that several processes may use at the same time.

    Each call opens a connection of its own, so that none is shared with a forked process. The first tensors that are
    written for a text stay: later writes of the same text are ignored, and all readers get the same bits.

    Args:
        path: the file, which the first :meth:`write` creates, with its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, texts: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """Return the stored tensors as ``{text: {name: tensor}}``; texts that are not in the store are left out."""
        from safetensors.torch import load

        if not self.path.exists():
            return {}
        found: dict[str, dict[str, Tensor]] = {}
        with closing(self._connect()) as database:
            for first in range(0, len(texts), TEXTS_PER_QUERY):
                some = texts[first : first + TEXTS_PER_QUERY]
                query = f"SELECT text, tensors FROM embeddings WHERE text IN ({', '.join('?' * len(some))})"
                found.update((text, load(tensors)) for text, tensors in database.execute(query, some))
        return found

    def write(self, embeddings: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Store the tensors ``{text: {name: tensor}}`` in one transaction: all or, if the process is killed, none.

        Texts that are in the store already keep their tensors.
        """
        from safetensors.torch import save

        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [(text, save({k: v.contiguous() for k, v in parts.items()})) for text, parts in embeddings.items()]
        with closing(self._connect()) as database, database:
            database.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", rows)

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=WAIT_SECONDS)
        database.execute("CREATE TABLE IF NOT EXISTS embeddings (text TEXT PRIMARY KEY, tensors BLOB NOT NULL)")
        return database
