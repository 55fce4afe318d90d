"""Orders of the training samples: the plain one, and balanced classes."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from diffsweep.datasets import ImageData, InMemory, Latents
from diffsweep.datasets.orders import BalancedClasses, Permutations, Shuffled
from diffsweep.files import ContentError

COUNTS = {0: 1, 1: 7, 2: 3, 3: 40}  # samples of each class
LABEL = torch.repeat_interleave(torch.tensor(list(COUNTS)), torch.tensor(list(COUNTS.values())))[torch.randperm(51)]


def test_draws_in_any_pieces_are_those_of_one_piece():
    permutations = Permutations({0: torch.arange(100, 110), 5: torch.arange(3)}, seed=1)
    whole = permutations.draws(0, range(45))
    assert whole.dtype == torch.int64
    for first, end in ((0, 1), (7, 31), (44, 45), (9, 11)):
        assert torch.equal(Permutations(permutations.subsets, seed=1).draws(0, range(first, end)), whole[first:end])
    assert [permutations.draw(0, k) for k in (44, 3, 20)] == whole[[44, 3, 20]].tolist()
    for each in whole[:40].split(10):
        assert each.sort().values.tolist() == list(range(100, 110))
    assert not torch.equal(whole[:10], whole[10:20])


def test_subsets_of_one_size_have_orders_of_their_own():
    permutations = Permutations({number: torch.arange(50) for number in (-1, 0, 1, 2)}, seed=3)
    orders = {tuple(permutations.draws(number, range(50)).tolist()) for number in permutations.subsets}
    assert len(orders) == 4


def test_each_round_has_each_class_once_in_another_order():
    label = LABEL[BalancedClasses(LABEL, 4, seed=0).rows(range(4 * 200))]
    rounds = label.view(200, 4)
    assert torch.equal(rounds.sort(1).values, torch.arange(4).expand(200, 4))
    assert len({tuple(one) for one in rounds.tolist()}) == 24  # all orders of four classes
    for place in rounds.T:  # each class is first as often as the others: within 5 standard deviations
        assert (torch.bincount(place, minlength=4) - 50).abs().max() < 5 * (200 * 0.25 * 0.75) ** 0.5


def test_a_class_is_gone_through_before_a_sample_recurs():
    rows = BalancedClasses(LABEL, 4, seed=0).rows(range(4 * 120))
    for number, count in COUNTS.items():
        drawn = rows[LABEL[rows] == number]
        every = (number == LABEL).nonzero()[:, 0].tolist()
        passes = drawn[: len(drawn) // count * count].split(count)
        assert all(one.sort().values.tolist() == every for one in passes)
        assert count == 1 or not torch.equal(passes[0], passes[1])


def test_balanced_batches_do_not_depend_on_where_a_run_began():
    whole = BalancedClasses(LABEL, 4, seed=5).rows(range(600))
    for first, end in ((0, 7), (590, 600), (123, 310)):
        assert torch.equal(BalancedClasses(LABEL, 4, seed=5).rows(range(first, end)), whole[first:end])
    assert not torch.equal(BalancedClasses(LABEL, 4, seed=6).rows(range(600)), whole)


def test_the_plain_order_is_that_of_earlier_versions():
    """Runs that were begun with them are resumed with the same batches."""
    by_hand = []
    for epoch in range(3):
        generator = torch.Generator().manual_seed(7 * 1_000_003 + epoch)
        by_hand.append(torch.randperm(11, generator=generator))
    assert torch.equal(Shuffled(11, seed=7).rows(range(33)), torch.cat(by_hand))


class Uneven(ImageData):
    """Images that are their own row, of four classes of 1 to 40 samples."""

    fingerprint = "uneven"

    def __init__(self, label=LABEL, **more):
        super().__init__(1, 1, 4, 256, batch_size=6, **more)
        self.label = label

    def load(self, split):
        x = torch.arange(float(len(self.label))).view(-1, 1, 1, 1)
        return InMemory({"x": x, "label": self.label})


def batches(data, count, step=0, rank=0, world=1):
    data.trainer = SimpleNamespace(
        global_step=step,
        global_rank=rank,
        world_size=world,
        accumulate_grad_batches=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return list(itertools.islice(data.train_dataloader(), count))


@pytest.mark.parametrize("flip", [False, True])
def test_loaders_with_balanced_classes_resume_and_share_batches_among_devices(flip):
    whole = batches(Uneven(balance="classes", flip=flip), 12)
    counts = torch.bincount(torch.cat([batch["label"] for batch in whole]))
    assert counts.tolist() == [18] * 4
    resumed = batches(Uneven(balance="classes", flip=flip), 5, step=7)
    ranks = [batches(Uneven(balance="classes", flip=flip), 6, rank=rank, world=2) for rank in (0, 1)]
    alternating = [batch for pair in zip(*ranks, strict=True) for batch in pair]
    for one, other in [*zip(whole[7:], resumed, strict=True), *zip(whole, alternating, strict=True)]:
        assert all(torch.equal(one[name], other[name]) for name in ("x", "label", "position"))


def test_latents_are_balanced_by_the_labels_of_their_samples():
    data = Uneven(balance="classes")
    samples = data.split("train")
    data.replace_samples("train", Latents(samples["x"], samples))
    labels = torch.cat([batch["label"] for batch in batches(data, 10)])
    assert torch.bincount(labels).tolist() == [15] * 4


def test_balanced_classes_need_labels_and_no_empty_class():
    with pytest.raises(ValueError, match=r"balance=classes needs labels.*use dataset\.balance=none"):
        ImageData(1, 8, None, 17, 4, balance="classes")
    with pytest.raises(ContentError, match=r"class 2 of 4 has no training sample; use dataset\.balance=none"):
        Uneven(LABEL[LABEL != 2], balance="classes").train_dataloader()
