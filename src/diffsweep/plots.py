"""Plots by matplotlib (``pip install diffsweep[plots]``), which is imported when a plot is drawn."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffsweep.metric_table import DISTANCES, metric
from diffsweep.schedules import Schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TICKS = 10  # the most numbers of evaluations that have a tick each


def plot_schedules(schedules: Mapping[str, Schedule], points: int = 501) -> "Figure":
    """Plot alpha_t, sigma_t (up to 1.1) and the finite log-SNRs of noise schedules over t in [0, 1], in three panels.

    Args:
        schedules: the schedules by the names that the legend has.
        points: number of equally spaced times.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis in axes:
        axis.set_prop_cycle(color=colormaps["tab20"]([*range(0, 20, 2), *range(1, 20, 2)]))
    t = torch.linspace(0, 1, points, dtype=torch.float64)
    for name, schedule in schedules.items():
        with torch.no_grad():
            alpha, sigma = schedule(t)
            log_snr = schedule.log_snr(t)
        finite = log_snr.isfinite()
        axes[0].plot(t.numpy(), alpha.numpy(), label=name)
        axes[1].plot(t.numpy(), sigma.numpy())
        axes[2].plot(t[finite].numpy(), log_snr[finite].numpy())
    for axis, title in zip(axes, (r"$\alpha_t$", r"$\sigma_t$", r"$\log(\alpha_t^2 / \sigma_t^2)$"), strict=True):
        axis.set(title=title, xlabel="t")
        axis.grid(alpha=0.3)
    axes[1].set_ylim(-0.05, min(1.1, axes[1].get_ylim()[1]))  # exploding ones would hide the others
    figure.legend(loc="outside right center")
    return figure


def plot_by_evaluations(curves: Mapping[str, Sequence[tuple[float, float]]], label: str) -> "Figure":
    """Plot a metric by network evaluations on logarithmic axes, with one curve for each name.

    The axis has a tick at each measured number of evaluations, if these are at most ten.

    Args:
        curves: points (network evaluations, value) by name.
        label: the name of the metric at the vertical axis.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for name, points in curves.items():
        axis.loglog(*zip(*sorted(points), strict=True), "o-", label=name)
    axis.set(xlabel="network evaluations", ylabel=label)
    measured = sorted({evaluations for points in curves.values() for evaluations, _ in points})
    if len(measured) <= TICKS:
        axis.set_xticks(measured, [f"{evaluations:g}" for evaluations in measured])
        axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def plot_tradeoff(curves: Mapping[str, Sequence[tuple[float, Mapping[str, float]]]], key: str) -> "Figure":
    """Plot fidelity against diversity over the strength of guidance (arXiv:2105.05233, arXiv:2207.12598).

    The three panels are FID (or another distance of DISTANCES) against the inception score, precision against recall,
    both with the strength written at the points, and precision, recall and any accuracies against the strength.

    Args:
        curves: points (strength, metrics) by name, sorted by strength; the metrics have ``fid`` and ``is``, or another
            pair of DISTANCES, and ``precision`` and ``recall``.
        key: the configuration key of the strength, such as ``guidance.scale``, which labels the axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    *pairs, shares = figure.subplots(1, 3)
    _, first = next(iter(curves.values()))[0]
    distance = next(name for name in DISTANCES if name in first)
    for axis, (x, y) in zip(pairs, ((DISTANCES[distance], distance), ("recall", "precision")), strict=True):
        for name, points in curves.items():
            places = [(metrics[x], metrics[y]) for _, metrics in points]
            axis.plot(*zip(*places, strict=True), "o-", label=name)
            for place, (at, _) in zip(places, points, strict=True):
                axis.annotate(f"{at:g}", place, xytext=(4, 4), textcoords="offset points", fontsize=8)
        axis.set(xlabel=metric(x).label, ylabel=metric(y).label, title=f"{key} at the points")
    for share, style in _SHARES.items():
        for number, points in enumerate(curves.values()):
            values = [metrics.get(share, math.nan) for _, metrics in points]
            shares.plot([at for at, _ in points], values, style, color=f"C{number}")
        if any(share in metrics for points in curves.values() for _, metrics in points):
            shares.plot([], [], style, color="gray", label=share.replace("_", " "))
    shares.set(xlabel=key, ylabel="share")
    shares.legend()
    for axis in (*pairs, shares):
        axis.grid(alpha=0.3)
    if len(curves) > 1:
        figure.legend(*pairs[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


_SHARES = {"precision": "o-", "recall": "s--", "class_accuracy": "^:", "caption_accuracy": "v:"}


def plot_bound_terms(terms: Tensor) -> "Figure":
    """Plot the terms L_0, L_1, ... of a variational bound, (K,), in bits per dimension, on a logarithmic axis over k.

    Terms below 1e-12 are drawn at 1e-12. The title has their sum.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.semilogy(range(len(terms)), terms.clamp(min=1e-12).tolist())
    axis.set(xlabel="k", ylabel="bits/dim", title=f"terms of the bound, {terms.sum():.3f} bits/dim in all")
    axis.grid(alpha=0.3)
    return figure


def plot_loss_by_time(rows: Sequence[Mapping[str, float]], most: int = 5) -> "Figure":
    """Plot the loss on held-out data by t at several steps of training, with bands of two standard errors.

    The loss has a logarithmic axis if all values are positive. Drawn are the first and the last step and some between.

    Args:
        rows: for each step and interval of t the numbers ``step``, ``t_from``, ``t_to``, ``loss`` and ``loss_se``.
        most: the most steps that are drawn.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    steps = sorted({row["step"] for row in rows})
    drawn = sorted({steps[round(i * (len(steps) - 1) / max(1, most - 1))] for i in range(most)})
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for number, step in enumerate(drawn):
        curve = [row for row in rows if row["step"] == step]
        t = [(row["t_from"] + row["t_to"]) / 2 for row in curve]
        losses = [row["loss"] for row in curve]
        color = colormaps["viridis"](0.9 - 0.85 * (number + 1) / len(drawn))
        axis.plot(t, losses, "o-", markersize=3, color=color, label=f"step {step:g}")
        low, high = ([row["loss"] + sign * 2 * row["loss_se"] for row in curve] for sign in (-1, 1))
        axis.fill_between(t, low, high, color=color, alpha=0.2, linewidth=0)
    if all(row["loss"] > 0 for row in rows):
        axis.set_yscale("log")
        axis.set_ylim(min(row["loss"] for row in rows) / 1.5)  # bands may reach below 0
    axis.set(xlabel="t (0: data, 1: noise)", ylabel="loss on held-out data", xlim=(0, 1))
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    return figure


def plot_accuracy(
    times: Sequence[float], log_snr: Sequence[float], accuracies: Sequence[float], chance: float
) -> "Figure":
    """Plot the accuracy of a classifier of noisy images x_t against t, with a line at the accuracy of guessing.

    Args:
        times: the times t in [0, 1] at which the accuracy was measured.
        log_snr: the log-SNR at these times, shown on a second axis above.
        accuracies: the accuracy at each time, in [0, 1].
        chance: the accuracy of guessing, 1 over the number of classes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(times, accuracies, "o-", label="held-out data")
    axis.axhline(chance, linestyle="--", color="gray", label=f"guessing among {1 / chance:.0f}")
    axis.set(xlabel="t", ylabel="accuracy", xlim=(-0.03, 1.03), ylim=(0, 1.03))
    axis.grid(alpha=0.3)
    axis.legend()
    above = axis.secondary_xaxis("top")
    above.set_xticks(times, [f"{value:.1f}" if math.isfinite(value) else "\u221e" for value in log_snr], fontsize=8)
    above.set_xlabel(r"$\log(\alpha_t^2 / \sigma_t^2)$")
    return figure


def plot_classes(counts: Mapping[str, Mapping[str, int]], title: str = "") -> "Figure":
    """Plot the counts of classes in training and held-out data as horizontal bars, or of over 60 classes as curves.

    The curves have the classes in the order of their training counts, without names.

    Args:
        counts: for each class, by its name, the counts ``train`` and ``val``.
        title: a text above the plot.
    """
    from matplotlib.figure import Figure

    names, many = list(counts), len(counts) > 60
    if many:
        names.sort(key=lambda name: -counts[name]["train"])
    figure = Figure(figsize=(7, 4 if many else 1.3 + 0.26 * len(names)), layout="constrained")
    axis = figure.subplots()
    for split, label, color in (("train", "training", "C0"), ("val", "held out", "C1")):
        values = [counts[name][split] for name in names]
        if many:
            axis.step(range(1, len(names) + 1), values, where="mid", color=color, label=label)
            continue
        offset = -0.2 if split == "train" else 0.2
        bars = axis.barh([k + offset for k in range(len(names))], values, 0.4, color=color, label=label)
        axis.bar_label(bars, fontsize=7, padding=2)
    if many:
        axis.set(xlabel="classes, by their training counts", ylabel="samples")
    else:
        axis.set_yticks(range(len(names)), [name if len(name) <= 30 else f"{name[:29]}\u2026" for name in names])
        axis.invert_yaxis()
        axis.set(xlabel="samples")
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3, axis="y" if many else "x")
    axis.margins(x=0.08)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def plot_ratios(results: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Plot ratios as horizontal bars, each with the interval of 90 % of its repeats, and a line at 1.

    Args:
        results: for each label ``ratio``, ``low`` and ``high``.
    """
    from matplotlib.figure import Figure

    labels, ratios = list(results), [result["ratio"] for result in results.values()]
    errors = [[ratio - results[label]["low"] for label, ratio in zip(labels, ratios, strict=True)]]
    errors.append([results[label]["high"] - ratio for label, ratio in zip(labels, ratios, strict=True)])
    figure = Figure(figsize=(10, 1.1 + 0.42 * len(labels)), layout="constrained")
    axis = figure.subplots()
    axis.barh(range(len(labels)), ratios, 0.6, xerr=errors, color="C0", ecolor="0.4", capsize=2)
    axis.set_yticks(range(len(labels)), [textwrap.fill(label, 60) for label in labels], fontsize=7)
    style: dict[str, Any] = {"fontsize": 8, "bbox": {"facecolor": "white", "linewidth": 0, "pad": 0.5}}
    for place, (ratio, above) in enumerate(zip(ratios, errors[1], strict=True)):
        axis.annotate(f"{ratio:.3g}", (ratio + above, place), (4, 0), textcoords="offset points", va="center", **style)
    axis.axvline(1, color="0.4", linestyle="--", linewidth=1)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel("ratio, ours over what it is compared with")
    axis.grid(alpha=0.3, axis="x")
    return figure
