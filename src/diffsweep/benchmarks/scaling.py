r"""How far training scales over devices, by calculation: the bytes of a step over interconnects against its FLOPs.

A step of B samples a device has :math:`F = 3 \cdot 2 M B` floating-point operations: M multiply-adds of the network for
one sample, each of two operations, once in the forward pass and twice in the backward pass. At a peak of R operations a
second, of which a share u is reached, it takes

.. math:: T_c = T_f + T_b = \frac{6 M B}{u R}, \qquad T_f = \frac{T_c}{3}, \quad T_b = \frac{2 T_c}{3}.

The gradients of P parameters with q bytes each are summed over g devices on each of n machines: within a machine each
device sends and receives a ring's two passes over its share (reduce-scatter and all-gather), and between them the
machines sum what each device has reduced, in rings over the network of the machine:

.. math:: T_a = \frac{2 (g - 1)}{g} \frac{q P}{W_g} + \frac{2 (n - 1)}{n} \frac{q P}{W_n},

with :math:`W_g` bytes a second of a device to the others of its machine, and :math:`W_n` of a machine to the others, in
each direction. The sums overlap with the backward pass, since a layer's gradient is sent as soon as it is known, so

.. math:: T = T_f + \max(T_b, T_a), \qquad \text{efficiency } e = T_c / T.

Below :math:`B^* = T_a u R / (4 M)` samples a device, where :math:`T_a = T_b`, the interconnect decides. Left out are
latencies, the last layer's sum, which nothing overlaps, and the optimizer, which each device repeats. Sharded weights
(ZeRO 3, FSDP) send half as much again: they are gathered in each of both passes, and gradients are scattered.
"""

import math
from dataclasses import dataclass, replace

from diffsweep.benchmarks.base import SECONDS, Bench, Results, part, single


@dataclass(frozen=True)
class Cluster:
    """Machines of equal devices, with the rates of their data sheets and the share of each that is reached.

    Attributes:
        name: of the devices.
        devices: of a machine, g.
        flops: peak operations a second of a device in bfloat16, R.
        within: bytes a second from a device to the others of its machine, one direction, W_g.
        between: bytes a second from a machine to the others, one direction, W_n.
        utilisation: the share u of the peak that training reaches.
        bandwidth: the share of the rates of interconnects that sums reach.
    """

    name: str
    devices: int
    flops: float
    within: float
    between: float
    utilisation: float = 0.4
    bandwidth: float = 0.8


# Data sheet of the H100 SXM: 989 TFLOP/s dense, NVLink 900 GB/s in both directions; InfiniBand NDR: 400 Gb/s.
H100 = Cluster("H100", 8, 989e12, 450e9, 50e9)
PLACES = (  # by name: the number of machines, and which
    ("8", 1, H100),
    ("64", 8, H100),
    ("64, a link each", 8, replace(H100, between=8 * H100.between)),
)
GRADIENTS = {"float32": 4, "bfloat16": 2}  # bytes of each


def seconds_to_sum(parameters: int, bytes_each: int, machines: int, cluster: Cluster = H100) -> float:
    """Return T_a, the seconds in which the gradients of all devices are summed.

    Args:
        parameters: P, those that train.
        bytes_each: q, of the gradient of a parameter: 4 for float32, 2 for bfloat16.
        machines: n.
        cluster: the machines.
    """
    size, devices = bytes_each * parameters, cluster.devices
    within = 2 * (devices - 1) / devices * size / cluster.within
    between = 2 * (machines - 1) / machines * size / cluster.between
    return (within + between) / cluster.bandwidth


def seconds_to_compute(gmac: float, batch: float, cluster: Cluster = H100) -> float:
    """Return T_c, the seconds of the forward and the backward pass.

    Args:
        gmac: thousands of millions of multiply-adds of the network for one sample, M / 10^9.
        batch: samples of a device, B.
        cluster: the machines.
    """
    return 6e9 * gmac * batch / (cluster.utilisation * cluster.flops)


def seconds_of_a_step(computing: float, summing: float) -> float:
    """Return T from T_c and T_a: the sums overlap with the backward pass, two thirds of the computation."""
    return computing / 3 + max(2 / 3 * computing, summing)


def least_batch(parameters: int, gmac: float, bytes_each: int, machines: int, cluster: Cluster = H100) -> float:
    """Return B*, the samples of a device below which summing takes longer than the backward pass."""
    summing = seconds_to_sum(parameters, bytes_each, machines, cluster)
    return summing / (2 / 3 * seconds_to_compute(gmac, 1, cluster))


def table(networks: dict[str, tuple[int, float]], batch: int = 256) -> str:
    """Return a table in Markdown of the limits of networks, for gradients in float32 and bfloat16.

    Its columns are the devices, the gradients and their bytes, T_a, T_b of one sample, B*, the batch of all devices
    where each has B*, and the efficiency with 32 samples a device and with a given batch of all devices.

    Args:
        networks: parameters and GMAC of each by its name.
        batch: samples of a step on all devices.
    """
    rows = [
        "| network | devices | gradients | T_a | T_b of a sample | B* | batch at B* | efficiency at 32 a device | "
        f"at a batch of {batch} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (parameters, gmac) in networks.items():
        for where, machines, cluster in PLACES:
            for kind, size in GRADIENTS.items():
                summing, one = seconds_to_sum(parameters, size, machines, cluster), seconds_to_compute(gmac, 1, cluster)
                devices = machines * cluster.devices
                computing = [one * samples for samples in (32, batch / devices)]
                efficiencies = [100 * each / seconds_of_a_step(each, summing) for each in computing]
                least = math.ceil(least_batch(parameters, gmac, size, machines, cluster))
                rows.append(
                    f"| {name} | {where} | {kind}, {size * parameters / 1e6:,.0f} MB | {1e3 * summing:.2f} ms | "
                    f"{2e3 / 3 * one:.2f} ms | {least} | {least * devices:,} | "
                    f"{' | '.join(f'{efficiency:.0f} %' for efficiency in efficiencies)} |"
                )
    return "\n".join(rows)


@part
def scaling(bench: Bench) -> Results:
    """Return, by a label, the ratio of a calculated step on several H100 to its computation alone.

    This is the part ``scaling`` of ``benchmark.py``. Nothing is timed: it is :func:`seconds_of_a_step` over
    :func:`seconds_to_compute` for the configured network and ``dataset.batch_size`` of each device.
    """
    cost = bench.cost(bench.cfg)
    computing = seconds_to_compute(cost.gmac, bench.cfg.dataset.batch_size)
    results = {}
    for machines in (1, 8):
        for kind, size in GRADIENTS.items():
            step = seconds_of_a_step(computing, seconds_to_sum(cost.parameters, size, machines))
            label = f"calculated step on {machines * H100.devices} H100, {kind} gradients, against its computation"
            results[label] = single(step, computing, SECONDS)
    return results
