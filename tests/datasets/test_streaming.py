"""Streamed images: the order, exact resume, workers, devices, unreadable images, and equality with decoded data."""

import itertools
import os
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diffsweep.datasets import ImageFolder, Parquet
from diffsweep.datasets.loader import BatchLoader, errors_of_workers
from diffsweep.datasets.stream_order import StreamedOrder
from diffsweep.errors import UserError
from diffsweep.files import ContentError

COUNT, SIDE, BATCH = 46, 8, 4


def pixels(number):
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture
def shards(tmp_path):
    """A folder of three parquet files with row groups of five rows, in which the label of each image is its number."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "shards"
    folder.mkdir()

    def write(broken=()):
        for part, rows in enumerate((range(17), range(17, 40), range(40, COUNT))):
            images = []
            for row in rows:
                file = io.BytesIO()
                Image.fromarray(pixels(row)).save(file, "PNG")
                images.append(b"torn" if row in broken else file.getvalue())
            columns = {"image": images, "label": list(rows), "text": [f"picture {row}" for row in rows]}
            pq.write_table(pa.table(columns), folder / f"{part}.parquet", row_group_size=5)
        return folder

    return write


@pytest.fixture
def make(shards, tmp_path):
    def make(broken=(), **more):
        usual = {"label_column": "label", "caption_column": "text", "num_classes": COUNT, "image_size": SIDE}
        usual |= {"num_val": 6, "batch_size": BATCH, "cache_dir": str(tmp_path / "cache"), "streaming": True}
        return Parquet(str(shards(broken)), **{**usual, "shuffle_buffer": 9, "num_reference": 10, **more})

    return make


def batches(data, count, step=0, rank=0, world=1):
    """Return batches of the training loader as they follow on a step, on one of several devices."""
    state = {"global_step": step, "global_rank": rank, "world_size": world, "accumulate_grad_batches": 1}
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), **state)
    loader = data.train_dataloader()
    found = list(itertools.islice(loader, count))
    data.trainer = None
    return found


def equal(these, those):
    return len(these) == len(those) and all(
        a.keys() == b.keys()
        and all(torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key] for key in a)
        for a, b in zip(these, those, strict=True)
    )


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("ends", "window"), [([5, 9, 30, 31], 7), ([100], 13), ([3, 6], 50), ([1, 2, 3, 4], 1)])
def test_every_sample_is_once_in_each_epoch_whatever_the_slices(ends, window, mirrored):
    size = ends[-1] * (1 + mirrored)
    order = StreamedOrder(ends, window, seed=3, mirrored=mirrored)
    epochs = [order.rows(range(e * size, (e + 1) * size)) for e in range(3)]
    assert all(sorted(epoch.tolist()) == list(range(size)) for epoch in epochs)
    assert size < 5 or not torch.equal(epochs[0], epochs[1])
    other, pieces, first = StreamedOrder(ends, window, seed=3, mirrored=mirrored), [], 0
    while first < 3 * size:  # in slices of other lengths, which span epochs
        stop = min(3 * size, first + 1 + first % 11)
        pieces.append(other.rows(range(first, stop)))
        first = stop
    assert torch.equal(torch.cat(pieces), torch.cat(epochs))
    late = StreamedOrder(ends, window, seed=3, mirrored=mirrored).rows(range(2 * size, 3 * size))
    assert torch.equal(late, epochs[2])
    assert size < 5 or not torch.equal(StreamedOrder(ends, window, 4, mirrored).rows(range(size)), epochs[0])


def test_a_window_reads_few_pieces_and_mixes_them():
    ends = list(range(100, 10_001, 100))
    order = StreamedOrder(ends, 1000, seed=0).rows(range(10_000)).view(10, 1000)
    for window in order:
        assert len((window // 100).unique()) == 10
        places = torch.arange(1000)[(window // 100) == window[0] // 100]  # of the rows of one piece
        assert 350 < places.float().mean() < 650  # half of 1000 +- 5 standard errors of 29
    assert abs(torch.corrcoef(torch.stack([order.flatten().float(), torch.arange(10_000.0)]))[0, 1]) < 0.5


def test_samples_are_those_of_the_decoded_data(make):
    streamed, held = make(), make(streaming=False)
    found = {}
    for batch in batches(streamed, (COUNT - 6) // BATCH):
        for x, label, caption in zip(batch["x"], batch["label"].tolist(), batch["caption"], strict=True):
            assert caption == f"picture {label}"
            assert np.array_equal(((x + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), pixels(label))
            found[label] = x
    val, reference = streamed.split("val"), streamed.split("train")
    assert (len(val), len(reference), len(streamed.split("all"))) == (6, 10, 16)
    assert sorted([*found, *val["label"].tolist()]) == list(range(COUNT))  # an epoch, and the held-out images
    assert set(reference["label"].tolist()) < set(found)
    assert reference["caption"] == [f"picture {label}" for label in reference["label"].tolist()]
    whole = {int(label): x for label, x in zip(held.split("all")["label"], held.split("all")["x"], strict=True)}
    parts = zip(*(torch.cat([val[k], reference[k]]) for k in ("label", "x")), strict=True)
    assert all(torch.equal(whole[int(label)], x) for label, x in [*found.items(), *parts])
    assert streamed.fingerprint != held.fingerprint


@pytest.mark.parametrize("flip", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_resumed_run_goes_on_with_the_same_batches(make, flip):
    epoch = (COUNT - 6) * (1 + flip) // BATCH
    whole = batches(make(flip=flip), 2 * epoch + 3)
    for step in (1, epoch // 2, epoch - 1, epoch, 2 * epoch + 1):
        assert equal(batches(make(flip=flip), 2, step), whole[step : step + 2])
    labels = torch.cat([batch["label"] for batch in whole[:epoch]])
    assert torch.bincount(labels, minlength=COUNT).unique().tolist() == [0, 1 + flip]  # 0 of the held-out images


def test_devices_share_the_batches_of_one(make):
    whole = batches(make(), 12)
    parts = [batches(make(), 6, rank=rank, world=2) for rank in range(2)]
    assert equal([batch for pair in zip(*parts, strict=True) for batch in pair], whole)
    assert equal(batches(make(), 2, step=4, rank=1, world=2), parts[1][4:])


def test_workers_give_the_same_batches_also_after_a_stop(make):
    whole = batches(make(), 13)
    assert equal(batches(make(num_workers=2), 7), whole[:7])
    assert equal(batches(make(num_workers=2), 4, step=9), whole[9:])


def test_few_pieces_are_held_and_skipped_images_are_not_decoded(make, monkeypatch):
    from diffsweep.datasets import streaming as module

    calls, decode = [], module.decode
    monkeypatch.setattr(module, "decode", lambda *a: (calls.append(1), decode(*a))[1])
    data = make()
    batches(data, 3, step=1000)
    assert len(calls) == 3 * BATCH
    held = []
    for batch in batches(data, 30):
        held.append(data.streamed._held())
        assert batch["x"].shape == (BATCH, 3, SIDE, SIDE)
    assert max(held) <= 9 + 2 * 5  # the window and two row groups


def test_an_unreadable_image_is_skipped_and_listed_or_refused_by_name(make, tmp_path, capfd):
    clean = {int(label) for batch in batches(make(), 10) for label in batch["label"]}
    broken = sorted(clean)[:2]
    for workers in (0, 2):
        with pytest.raises(ContentError) as error:
            batches(make(broken, num_workers=workers), 10)
        place = broken[0] if f"row {broken[0]} " in str(error.value) else broken[1]
        assert f"0.parquet, row {place} has no readable image (it is no image of a known format)" in str(error.value)
        assert "dataset.max_bad=N" in str(error.value)
        assert "\n" not in str(error.value)
    capfd.readouterr()
    whole = batches(make(broken, max_bad=2), 24)
    assert capfd.readouterr().err.count("cannot be read and is skipped") == 2
    (listed,) = (tmp_path / "cache/streams").glob("*.jsonl")
    assert len(listed.read_text().splitlines()) == 2
    assert {int(label) for batch in whole[:10] for label in batch["label"]} == clean - set(broken)
    assert all(batch["caption"] == [f"picture {label}" for label in batch["label"].tolist()] for batch in whole)
    assert equal(batches(make(broken, max_bad=2), 3, step=21), whole[21:])
    listed.unlink()
    assert equal(batches(make(broken, max_bad=2, num_workers=2), 3, step=5), whole[5:8])
    with pytest.raises(ContentError, match=r"and more than dataset.max_bad=1 images cannot be read"):
        batches(make(broken, max_bad=1), 10)


def test_a_label_that_is_no_class_is_named(make):
    with pytest.raises(ContentError, match=r"labels must be 0 to 39, but .*parquet, row \d+ has 4\d"):
        batches(make(num_classes=40, num_val=1), 11)


def test_a_folder_is_streamed_with_the_same_images_held_out(tmp_path):
    for number in range(12):
        (tmp_path / "photos" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(number)).save(tmp_path / "photos" / "ab"[number % 2] / f"{number}.png")
        (tmp_path / "photos" / "ab"[number % 2] / f"{number}.txt").write_text(f"picture {number}")
    usual = {"label_column": "folders", "caption_column": "txt", "num_classes": 2, "num_val": 4, "batch_size": 4}
    usual |= {"image_size": SIDE, "cache_dir": str(tmp_path / "cache")}
    streamed, held = (
        ImageFolder(str(tmp_path / "photos"), streaming=streaming, **usual) for streaming in (True, False)
    )
    assert torch.equal(streamed.split("val")["x"], held.split("val")["x"])
    seen = batches(streamed, 2)
    assert sorted(c for batch in seen for c in batch["caption"]) == sorted(held.split("train")["caption"])
    for batch in seen:
        numbers = [int(caption.removeprefix("picture ")) for caption in batch["caption"]]
        assert batch["label"].tolist() == [number % 2 for number in numbers]


class Slow(torch.utils.data.Dataset):
    """A dataset whose second batch kills its process, or takes longer than anyone waits."""

    def __init__(self, action):
        self.action = action

    def __getitem__(self, which):
        if which == 1:
            self.action()
        return {"x": torch.zeros(1)}


class Stopping(torch.utils.data.Dataset):
    """A dataset without any sample."""

    def __getitem__(self, which):
        raise StopIteration


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def exhausted():
    next(iter(()))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("action", "name"), [(exhausted, "StopIteration"), (sys.exit, "SystemExit")])
def test_a_dataset_that_stops_or_exits_is_no_short_epoch(action, name, workers):
    """Both would pass for the end of the batches, or of the program."""
    with pytest.raises(ContentError, match=f"the dataset raised {name} for number 1, ") as error:
        list(BatchLoader(Slow(action), range(4), num_workers=workers))
    assert "\n" not in str(error.value)


def test_held_out_samples_that_stop_are_named_too(make):
    """A validation of fewer batches would give another loss."""
    data = make()
    samples = data.split("val")
    samples.rows = lambda index: next(iter(()))
    with pytest.raises(ContentError, match="StopIteration for held-out samples 0 to 5"):
        list(data.val_dataloader())
    with pytest.raises(ContentError, match="positions 0 to 3 of the training stream"):
        list(BatchLoader(Stopping(), [range(4), range(4, 8)]))


@pytest.mark.parametrize(
    ("action", "patience", "text"),
    [(killed, 60, "has ended"), pytest.param(signal.pause, 1, "gave none in 1 s", marks=pytest.mark.slow)],
)
def test_a_process_that_ends_or_hangs_is_one_line(action, patience, text, monkeypatch):
    from diffsweep.datasets import loader as module

    monkeypatch.setattr(module, "PATIENCE", patience)
    with pytest.raises(UserError, match=text) as error, errors_of_workers():
        list(BatchLoader(Slow(action), range(4), num_workers=1))
    assert "\n" not in str(error.value)
