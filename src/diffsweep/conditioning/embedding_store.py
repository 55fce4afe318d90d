"""Embeddings of texts on disk."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from torch import Tensor

QUESTIONS = 500  # texts a query; old builds of SQLite take 999 at most
PATIENCE = 60.0  # seconds that a process waits for another one to finish writing


class EmbeddingStore:
    """Named tensors of each text, in one SQLite file that several processes may use at a time.

    A connection lives for one call, so that none is shared with a forked process. What is written first stays: who reads a text
    later gets the same bits.

    Args:
        path: the file; it is made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, texts: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """The tensors of those texts that have been written."""
        from safetensors.torch import load

        if not self.path.exists():
            return {}
        found: dict[str, dict[str, Tensor]] = {}
        with closing(self._connect()) as database:
            for first in range(0, len(texts), QUESTIONS):
                some = texts[first : first + QUESTIONS]
                query = f"SELECT text, tensors FROM embeddings WHERE text IN ({', '.join('?' * len(some))})"
                found.update((text, load(tensors)) for text, tensors in database.execute(query, some))
        return found

    def write(self, embeddings: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Keep the tensors of texts, all of them or, where the process is killed, none."""
        from safetensors.torch import save

        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [(text, save({k: v.contiguous() for k, v in parts.items()})) for text, parts in embeddings.items()]
        with closing(self._connect()) as database, database:
            database.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", rows)

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=PATIENCE)
        database.execute("CREATE TABLE IF NOT EXISTS embeddings (text TEXT PRIMARY KEY, tensors BLOB NOT NULL)")
        return database
