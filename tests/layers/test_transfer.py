"""A loop over tensors that are used while the next one is computed: order, values, and how many are alive."""

import weakref
from contextlib import nullcontext

import pytest
import torch

from diffsweep.layers import Overlap, Received, send_all, transfer

CPU = torch.device("cpu")


class Copied:
    """A stand-in of a copy from a GPU, which is counted while it is alive."""

    alive = None

    def __init__(self, x):
        self.copy = x.clone()
        self.alive.add(self.copy)

    def wait(self):
        return self.copy

    def seconds_since(self, begin):
        return 0.5


def looped(overlap, count):
    """Return the results, the order of events, and the most tensors that were alive at once."""
    alive, events, most = weakref.WeakSet(), [], [0]
    Copied.alive = alive

    def begin(i):
        x = torch.full((2,), float(i))
        alive.add(x)
        events.append(f"begin {i}")
        most.append(len(alive))

        def use(copy):
            events.append(f"use {i}")
            most.append(len(alive))
            return float(copy.sum())

        return x, use

    return list(overlap(map(begin, range(count)))), events, max(most)


def test_on_a_cpu_each_tensor_is_used_before_the_next_is_computed():
    overlap = Overlap(CPU)
    found, events, most = looped(overlap, 5)
    assert found == [0, 2, 4, 6, 8]
    assert events == [f"{what} {i}" for i in range(5) for what in ("begin", "use")]
    assert most == 1
    assert overlap.seconds > 0


def test_on_a_gpu_each_tensor_is_used_when_the_next_is_queued(monkeypatch):
    """With stand-ins of copies, events and the second stream; at most two tensors are alive between two batches."""
    monkeypatch.setattr(transfer, "Received", Copied)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    overlap = Overlap(CPU)
    overlap._beside = "second stream"
    monkeypatch.setattr(overlap, "_now", lambda: None)
    found, events, most = looped(overlap, 4)
    assert found == [0, 2, 4, 6]
    order = ["begin 0", "begin 1", "use 0", "begin 2", "use 1", "begin 3", "use 2", "use 3"]
    assert events == order
    assert most == 2
    assert overlap.seconds == 4 * 0.5


def test_nothing_is_computed_for_no_tensors():
    assert list(Overlap(CPU)(iter(()))) == []


@pytest.mark.gpu
def test_a_copy_from_a_gpu_is_pinned_and_complete_once_waited_for():
    """The tensor is changed behind its copy, and used on the second stream while the next one is computed."""
    device = torch.device("cuda")
    x = torch.randn(2048, 2048, device=device)
    expected = (x @ x).cpu()
    product = x @ x
    received = Received(product)
    product.zero_()
    copy = received.wait()
    assert copy.is_pinned()
    torch.testing.assert_close(copy, expected)

    overlap = Overlap(device)
    begun = (((x * i).sum(1), lambda copy: copy.to(device).mean().cpu()) for i in range(5))
    found = torch.stack(list(overlap(begun)))
    torch.testing.assert_close(found, torch.stack([(x * i).sum(1).mean().cpu() for i in range(5)]))
    assert overlap.seconds > 0


def test_texts_of_a_batch_stay_and_tensors_are_sent():
    batch = {"label": torch.ones(2), "caption": ["a", "b"], "negative": {"label": torch.zeros(2)}}
    sent = send_all(batch, torch.device("meta"))
    assert sent["caption"] == ["a", "b"]
    assert (sent["label"].device.type, sent["negative"]["label"].device.type) == ("meta", "meta")
