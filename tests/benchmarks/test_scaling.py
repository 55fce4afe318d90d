"""The limits of scaling by calculation: sums of gradients in rings, their overlap, and the table of the page."""

from dataclasses import replace
from pathlib import Path

import pytest
from composing import composed

from diffsweep.benchmarks.scaling import (
    H100,
    least_batch,
    seconds_of_a_step,
    seconds_to_compute,
    seconds_to_sum,
    table,
)
from diffsweep.runs.cost import network_cost

PAGE = Path(__file__).resolve().parents[2] / "conf/experiment/README.md"
NETWORKS = (
    ("backbone=unet_ddpm_cifar10", "space.channels=3", "space.image_size=32"),
    ("backbone=unet_iddpm_imagenet64", "space.channels=3", "space.image_size=64"),
    (
        *("backbone=dit_xl_2", "space.channels=4", "space.image_size=32", "space.out_channels=8"),
        *("backbone.num_classes=1000", "prediction.variance=learned_range"),
    ),
)
EXACT = replace(H100, utilisation=1.0, bandwidth=1.0)


def ring(chunks):
    """Return the sums that each device has after a ring's two passes, and the numbers that each has sent.

    ``chunks[d][c]`` is the number that device d has in chunk c, of as many chunks as devices.
    """
    count, sent = len(chunks), [0] * len(chunks)
    for first in (True, False):  # reduce-scatter, all-gather
        for step in range(count - 1):
            moved = [(device, (device - step + (0 if first else 1)) % count) for device in range(count)]
            values = [chunks[device][chunk] for device, chunk in moved]
            for (device, chunk), value in zip(moved, values, strict=True):
                to = (device + 1) % count
                chunks[to][chunk] = chunks[to][chunk] + value if first else value
                sent[device] += 1
    return chunks, sent


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_bytes_of_a_sum_are_those_that_a_ring_sends(count):
    """The ring is played: all devices have all sums at its end, and each has sent 2 (g - 1) / g of the gradients."""
    chunks, sent = ring([[10**device * (chunk + 1) for chunk in range(count)] for device in range(count)])
    ones = sum(10**device for device in range(count))
    assert chunks == [[ones * (chunk + 1) for chunk in range(count)]] * count
    cluster, parameters = replace(EXACT, devices=count), 1000 * count
    for devices_sent in sent:
        expected = devices_sent * (4 * parameters / count) / cluster.within
        assert seconds_to_sum(parameters, 4, 1, cluster) == pytest.approx(expected, rel=1e-12)


def test_machines_sum_what_their_devices_have_reduced():
    """By hand for two machines of two devices: each device sends half of its bytes twice, each machine all of them."""
    cluster = replace(EXACT, devices=2, within=10.0, between=1.0)
    assert seconds_to_sum(100, 2, 2, cluster) == pytest.approx(200 / 10 + 200 / 1)
    assert seconds_to_sum(100, 2, 1, replace(cluster, bandwidth=0.5)) == pytest.approx(2 * 200 / 10)


def test_at_the_least_batch_the_sum_takes_as_long_as_the_backward_pass():
    for machines in (1, 8):
        least = least_batch(675_000_000, 118.6, 4, machines)
        computing, summing = seconds_to_compute(118.6, least), seconds_to_sum(675_000_000, 4, machines)
        assert summing == pytest.approx(2 / 3 * computing, rel=1e-12)
        assert seconds_of_a_step(computing, summing) == pytest.approx(computing)
        assert seconds_of_a_step(computing / 2, summing) == pytest.approx(computing / 6 + summing)
        assert least_batch(675_000_000, 118.6, 2, machines) == pytest.approx(least / 2)
    assert seconds_to_compute(118.6, 1, EXACT) == pytest.approx(3 * 2 * 118.6e9 / 989e12)


@pytest.mark.slow
def test_the_table_of_the_page_is_the_calculated_one():
    costs = [network_cost(composed("train", "logger=csv", *words)) for words in NETWORKS]
    assert table({cost.network: (cost.parameters, cost.gmac) for cost in costs}) in PAGE.read_text(encoding="utf-8")
