"""Benchmarks of streamed data: the processor's time beside Pillow's, and what a second worker gains."""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from diffsweep.benchmarks.base import Bench, Ratio, Results, compare, part
from diffsweep.benchmarks.data import COUNT, SIDE, by_pillow, photographs
from diffsweep.datasets import ImageFolder, Parquet
from diffsweep.datasets.loader import BatchLoader
from diffsweep.datasets.samples import Batch
from diffsweep.datasets.stream import Positions
from diffsweep.datasets.streamed_images import StreamableImages
from diffsweep.progress import tracked

BATCH = 16
DRAINED, TIMED = 3, 6  # batches of each worker that were ready before, and that are timed


@part
def streaming(bench: Bench) -> Results:
    """Return, by a label, ratios of times in which streamed images are decoded.

    This is the part ``streaming`` of ``benchmark.py``. The images are JPEG files of 400 pixels that are scaled to 64,
    in parquet files and in a folder. "streaming of an image, against Pillow" is the processor's time for training
    batches in their random order, in one thread, over that of Pillow, which has the files in memory; "2 workers against
    1" is the time for each image on the clock, of two processes over that of one: 0.5 with two idle cores.
    """
    import pyarrow
    from pyarrow import parquet

    contents = photographs()
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        for number, content in enumerate(contents):
            (folder / "photos" / f"{number:04}.jpg").write_bytes(content)
        parquet.write_table(pyarrow.table({"image": contents}), folder / "images.parquet", row_group_size=COUNT // 4)
        settings: dict[str, Any] = {
            "image_size": SIDE,
            "num_val": 1,
            "cache_dir": name,
            "batch_size": BATCH,
            "streaming": True,
        }
        data: dict[str, StreamableImages] = {
            "parquet": Parquet(str(folder / "images.parquet"), **settings),
            "image_folder": ImageFolder(str(folder / "photos"), **settings),
        }
        found: Results = {}
        for kind, one in data.items():
            ours, bare = [], []
            stream, one.streamed.threads = one.training_stream(), 1
            for repeat in tracked(range(bench.cfg.repeats), f"streaming {kind}", "repeat"):
                begin = time.process_time()
                first = repeat * COUNT
                for place in range(first, first + COUNT, BATCH):
                    stream[range(place, place + BATCH)]
                middle = time.process_time()
                by_pillow(contents)
                ours.append((middle - begin) / COUNT)
                bare.append((time.process_time() - middle) / COUNT)
            found[f"streaming of an image by {kind}, against Pillow"] = compare(ours, bare)
            found[f"streaming by {kind}, 2 workers against 1"] = _by_workers(one, bench.cfg.repeats)
    return found


def _by_workers(data: StreamableImages, repeats: int) -> Ratio:
    """Return the ratio of the time for an image of two workers to that of one, which are timed in turn."""
    loaders = [BatchLoader(data.training_stream(), Positions(BATCH, 0), workers) for workers in (2, 1)]
    batches: list[Iterator[Batch]] = [iter(loader) for loader in loaders]
    times: list[list[float]] = [[], []]
    for _ in tracked(range(repeats), "streaming by workers", "repeat"):
        for number, workers in enumerate((2, 1)):
            for _ in range(DRAINED * workers):
                next(batches[number])
            begin = time.perf_counter()
            for _ in range(TIMED * workers):
                next(batches[number])
            times[number].append((time.perf_counter() - begin) / (TIMED * workers * BATCH))
    return compare(*times)
