"""The dataset of handwritten digits, and the endless stream of training batches."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits as sklearn_digits

from diffsweep.datasets import Digits, InMemory, load_digits
from diffsweep.datasets.orders import Shuffled
from diffsweep.datasets.stream import Positions, TrainingStream


def as_set(x):
    return sorted(map(tuple, ((x.flatten(1) + 1) * 8).round().int().tolist()))


def test_splits_are_disjoint_and_complete():
    """As multisets: each digit of scikit-learn is in exactly one of the two splits."""
    train, val = load_digits("train"), load_digits("val")
    assert (len(train["x"]), len(val["x"])) == (1500, 297)
    whole = torch.from_numpy(sklearn_digits().data).float() / 8 - 1
    assert as_set(torch.cat([train["x"], val["x"]])) == as_set(whole) == as_set(load_digits("all")["x"])
    assert torch.cdist(train["x"].flatten(1), val["x"].flatten(1)).min() > 0.05  # no digit is in both


def test_labels_belong_to_their_digits():
    digits = sklearn_digits()
    labels = {
        tuple(row): label for row, label in zip(digits.data.astype(int).tolist(), digits.target.tolist(), strict=False)
    }
    for split in ("train", "val", "all"):
        samples = load_digits(split)
        rows = map(tuple, ((samples["x"].flatten(1) + 1) * 8).round().int().tolist())
        assert [labels[row] for row in rows] == samples["label"].tolist()


def test_values_lie_on_the_17_levels():
    x = load_digits("all")["x"]
    assert torch.equal(x.unique(), torch.linspace(-1, 1, 17))


def test_both_splits_have_every_class():
    for split in ("train", "val"):
        assert load_digits(split)["label"].bincount(minlength=10).min() >= 20


def test_constants_of_the_data_cannot_be_changed():
    with pytest.raises(ValueError, match="cannot be changed"):
        Digits(image_size=16)


@pytest.mark.parametrize(("bad", "match"), [({"batch_size": 0}, "batch_size"), ({"num_workers": -1}, "num_workers")])
def test_bad_values_are_refused(bad, match):
    with pytest.raises(ValueError, match=match):
        Digits(**bad)


def stream(count=10, seed=0):
    samples = InMemory({"x": torch.arange(count).float()[:, None], "label": torch.arange(count)})
    return TrainingStream(samples, Shuffled(count, seed))


def batches_of(batch_size, count, first=0, rank=0, world_size=1, **data):
    source = stream(**data)
    return [source[p] for p in itertools.islice(Positions(batch_size, first, rank, world_size), count)]


@pytest.mark.parametrize("batch_size", [1, 3, 10, 25])
def test_every_epoch_is_a_permutation(batch_size):
    """For any batch size, also where a batch spans several epochs."""
    batches = batches_of(batch_size, -(-50 // batch_size))
    labels = torch.cat([batch["label"] for batch in batches])[:50].unflatten(0, (5, 10))
    assert torch.equal(labels.sort(dim=1).values, torch.arange(10).expand(5, 10))
    assert len(labels.unique(dim=0)) == 5  # five different orders
    assert torch.equal(torch.cat([batch["position"] for batch in batches]), torch.arange(len(batches) * batch_size))


def test_parts_of_a_sample_stay_together():
    for batch in batches_of(7, 10):
        assert torch.equal(batch["x"][:, 0].long(), batch["label"])


@pytest.mark.parametrize("first", [1, 4, 13])
def test_a_stream_that_starts_later_gives_the_same_batches(first):
    whole, rest = batches_of(7, 20), batches_of(7, 20 - first, first=first)
    for expected, batch in zip(whole[first:], rest, strict=True):
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_the_order_does_not_depend_on_the_batch_size():
    orders = [torch.cat([batch["label"] for batch in batches_of(size, 60 // size)]) for size in (1, 4, 15)]
    assert torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], orders[2])


def test_seeds_have_different_orders():
    orders = {
        tuple(torch.cat([batch["label"] for batch in batches_of(10, 3, seed=seed)]).tolist()) for seed in range(20)
    }
    assert len(orders) == 20


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_partition_the_stream(world_size):
    """In each step n devices get together the batch of one device with n times the batch size."""
    alone = batches_of(4 * world_size, 6)
    ranks = [batches_of(4, 6, rank=rank, world_size=world_size) for rank in range(world_size)]
    for expected, parts in zip(alone, zip(*ranks, strict=False), strict=True):
        for name in expected:
            assert torch.equal(torch.cat([part[name] for part in parts]), expected[name])


def test_each_later_epoch_of_the_digits_has_every_sample_once():
    """The whole third epoch, started from its first batch."""
    data = Digits(batch_size=500, seed=3)
    source = TrainingStream(data.split("train"), Shuffled(1500, 3))
    batches = [source[p] for p in itertools.islice(Positions(500, first=6), 3)]
    assert as_set(torch.cat([batch["x"] for batch in batches])) == as_set(data.split("train")["x"])


def test_workers_do_not_change_the_batches():
    """The loader gives the same batches without worker processes and with two."""
    none, two = (
        list(itertools.islice(Digits(batch_size=600, num_workers=workers, seed=1).train_dataloader(), 6))
        for workers in (0, 2)
    )
    for expected, batch in zip(none, two, strict=True):
        assert expected.keys() == batch.keys()
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


class FakeTrainer:
    """The attributes of Lightning's Trainer that the loaders read."""

    def __init__(self, steps=0, rank=0, world=1, accumulate=1):
        self.global_step, self.global_rank, self.world_size, self.accumulate_grad_batches = (
            steps,
            rank,
            world,
            accumulate,
        )
        self.strategy = SimpleNamespace(root_device=torch.device("cpu"))


def test_the_training_loader_starts_at_the_trainers_step():
    """With two accumulated batches a step, step 3 begins at batch 6."""
    data = Digits(batch_size=8)
    data.trainer = FakeTrainer(steps=3, rank=1, world=2, accumulate=2)
    assert next(iter(data.train_dataloader()))["position"].tolist() == list(range((6 * 2 + 1) * 8, (6 * 2 + 2) * 8))


@pytest.mark.parametrize("world", [1, 2])
def test_validation_covers_the_held_out_split_once_in_order(world):
    data, indices = Digits(), []
    for rank in range(world):
        data.trainer = FakeTrainer(rank=rank, world=world)
        batches = list(data.val_dataloader())
        indices.append(torch.cat([batch["index"] for batch in batches]))
        for batch in batches:
            assert torch.equal(batch["x"], load_digits("val")["x"][batch["index"]])
            assert torch.equal(batch["label"], load_digits("val")["label"][batch["index"]])
        assert (indices[-1].diff() > 0).all()
    assert torch.equal(torch.cat(indices).sort().values, torch.arange(297))
    assert data.num_val == 297
