"""Benchmarks of data: decoding of files against Pillow alone, and the loader's share of a training step."""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image, ImageOps

from diffsweep.benchmarks.base import Bench, Results, compare, part, synchronize
from diffsweep.configuration.build import device_of
from diffsweep.datasets.byte_images import ByteImages
from diffsweep.datasets.decoding import PixelForm, results
from diffsweep.datasets.folder_files import FILE, FolderFiles
from diffsweep.datasets.orders import Shuffled
from diffsweep.datasets.parquet_files import ParquetFiles
from diffsweep.datasets.placement import on_training_device
from diffsweep.datasets.stream import TrainingStream
from diffsweep.datasets.tables import ImageTable
from diffsweep.progress import tracked

COUNT, SIZE, SIDE = 96, 400, 64  # photographs of 400 pixels, scaled to 64


def photographs() -> list[bytes]:
    """Return JPEG files of smooth noise, which compress as photographs do."""
    generator = np.random.default_rng(0)
    files = []
    for _ in range(COUNT):
        small = Image.fromarray(generator.integers(0, 256, (SIZE // 8, SIZE // 8, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def by_pillow(contents: Sequence[bytes]) -> None:
    """Decode and scale as a script of a few lines would."""
    for content in contents:
        with Image.open(io.BytesIO(content)) as image:
            np.asarray(ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.BICUBIC)).copy()


@part
def decoding(bench: Bench) -> Results:
    """Return, by a label, the ratio of the time in which datasets decode an image to that of Pillow, on one thread.

    This is the part ``decoding`` of ``benchmark.py``. The datasets are ``parquet`` and ``image_folder``, of JPEG files
    of 400 pixels that are scaled to 64; Pillow has the files in memory.
    """
    import pyarrow
    from pyarrow import parquet

    contents = photographs()
    with TemporaryDirectory() as name:
        folder = Path(name)
        for number, content in enumerate(contents):
            (folder / f"{number:04}.jpg").write_bytes(content)
        parquet.write_table(pyarrow.table({"image": contents}), folder / "images.parquet")
        tables: dict[str, tuple[ImageTable, str]] = {
            "parquet": (ParquetFiles("dataset.path", str(folder / "images.parquet")), "image"),
            "image_folder": (FolderFiles("dataset.path", name), FILE),
        }
        rows, form = torch.arange(COUNT), PixelForm(3, SIDE)
        found: Results = {}
        for kind, (table, column) in tables.items():
            ours, bare = [], []
            for _ in tracked(range(bench.cfg.repeats), f"decoding {kind}", "repeat"):
                begin = time.perf_counter()
                for _ in results([table], column, rows, form, threads=1, shown=False):
                    pass
                middle = time.perf_counter()
                by_pillow(contents)
                ours.append((middle - begin) / COUNT)
                bare.append((time.perf_counter() - middle) / COUNT)
            found[f"decoding of an image by {kind}, against Pillow"] = compare(ours, bare)
    return found


@part
def loading(bench: Bench) -> Results:
    """Return, by a label, the ratio of a training step with its batch from memory to the same step on a given batch.

    This is the part ``loading`` of ``benchmark.py``. The data are as many random images as CIFAR-10's test set has, in
    the shape of the configuration's data, held as 8-bit pixels: in memory, or with a GPU on it. The loader takes a
    batch in random order and scales it to [-1, 1]. The step is that of the configuration's model.
    """
    cfg = bench.cfg
    model, data = bench.fresh(cfg)
    pixels = torch.randint(0, 256, (10_000, *data.shape), dtype=torch.uint8)
    samples = ByteImages(pixels, torch.arange(len(pixels)), {"label": torch.arange(len(pixels)) % 10})
    device = device_of(cfg)
    placed = on_training_device(samples, "auto", device) or samples
    stream = TrainingStream(placed, Shuffled(len(samples), seed=0), device)
    network = model.to(device).denoiser.backbone
    optimizer = model.make_optimizer(network.parameters())
    size = data.batch_size
    _, cond = model.request(torch.arange(size), data.split("train"))
    x = stream[range(size)]["x"]

    def step(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        network(x, torch.full((size,), 500.0, device=device), cond).square().mean().backward()
        optimizer.step()
        synchronize()

    step(x)
    ours, bare = [], []
    for repeat in tracked(range(cfg.repeats), "loading", "repeat"):
        begin = time.perf_counter()
        batch = stream[range(repeat * size, (repeat + 1) * size)]["x"]
        synchronize()
        loaded = time.perf_counter() - begin
        begin = time.perf_counter()
        step(batch)
        stepped = time.perf_counter() - begin
        ours.append(loaded + stepped)
        bare.append(stepped)
    return {"training step with its batch from memory, against the step alone": compare(ours, bare)}
