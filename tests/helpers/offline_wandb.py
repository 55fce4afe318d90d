"""Read the file of an offline W&B run: records of protobuf in the log format of LevelDB, in blocks of 32 KiB."""

import json
import struct
import time
from types import SimpleNamespace

BLOCK, HEADER, WHOLE, LAST = 32768, 7, 1, 4


def records(path):
    """Yield the records of a ``.wandb`` file."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), HEADER, b""
    assert data[:4] in (b":W&B", b"")
    while at + HEADER <= len(data):
        if (left := BLOCK - at % BLOCK) < HEADER:
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + HEADER])
        parts += data[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (WHOLE, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def read_runs(directory):
    """Return the offline W&B runs in a run's directory, the first one first, with what was recorded."""
    return [_finished(path) for path in sorted(directory.glob("wandb/offline-run-*/*.wandb"))]


def _finished(path, seconds=20):
    """Return the content of a file; W&B's own process writes the end of it shortly after the run has ended."""
    until = time.monotonic() + seconds
    while (found := _read(path)).exit_code is None:
        assert time.monotonic() < until, f"{path} has no end"
        time.sleep(0.05)
    return found


def _read(path):
    found = SimpleNamespace(history=[], summary={}, artifacts=[], exit_code=None)
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found.id, found.name, found.group = run.run_id, run.display_name, run.run_group
            found.job_type, found.tags = run.job_type, list(run.tags)
            found.config = {item.key: json.loads(item.value_json) for item in run.config.update}
            found.config.pop("_wandb", None)
        elif kind == "history":
            found.history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "summary":
            found.summary.update({_key(item): json.loads(item.value_json) for item in record.summary.update})
        elif kind == "artifact":
            found.artifacts.append(record.artifact)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _key(item):
    """Return the key of a value; those of a nested value are joined by ``|``."""
    return item.key or "|".join(item.nested_key)
