"""Figures of what ``verify.py`` measures: errors by steps, by passages and by solver; matplotlib is imported in use."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ERRORS = {"wasserstein": "Wasserstein distance from the data / std", "solution": "error against the ODE's solution"}


def plot_convergence(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], order: int | None) -> "Figure":
    """Plot the measured errors of one sampler on logarithmic axes in two panels.

    The left panel has the curve ``order``, the mean error by number of steps on a finite range of log-SNR, with a line
    of the sampler's nominal order. The right panel has the other curves by network evaluations.

    Args:
        curves: pairs (x, errors) by name: ``order``, ``wasserstein`` (distance of samples from the data) and
            ``solution`` (error against the ODE's solution); any may be missing.
        order: the nominal order, so that errors fall as steps^-order; None leaves the left panel empty.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    if order is not None and "order" in curves:
        steps, errors = curves["order"]
        left.loglog(steps, errors, "o-", label="measured")
        nominal = [errors[-1] * (steps[-1] / n) ** order for n in steps]
        left.loglog(steps, nominal, "--", color="gray", label=f"order {order}")
        left.legend()
    left.set(xlabel="steps", ylabel="mean error", title="finite range of log-SNR")
    for name, (evaluations, errors) in curves.items():
        if name != "order":
            right.loglog(evaluations, errors, "o-", label=_ERRORS[name])
    right.set(xlabel="network evaluations", title="the configured sampler")
    right.legend()
    for axis in (left, right):
        axis.grid(alpha=0.3, which="both")
    return figure


def plot_passages(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> "Figure":
    """Plot errors of inpainted samples by the number of passages of RePaint, in a panel for each kind of error.

    Args:
        curves: pairs (passages, errors) by names ``kind, words``: the kind of error, such as ``mean``, and the words of
            the legend. Curves of two equal errors, of other guidance, are drawn dashed.
    """
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(name.partition(", ")[0] for name in curves))
    figure = Figure(figsize=(4.5 * len(kinds), 4), layout="constrained")
    for axis, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for name, (passages, errors) in curves.items():
            own, _, words = name.partition(", ")
            if own == kind:
                axis.semilogx(passages, errors, "--" if len(set(errors)) == 1 else "o-", label=words)
        axis.set(xlabel="passages of each part of the way", title=f"{kind}: error given the known number")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    return figure


def plot_errors(curves: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]) -> "Figure":
    """Plot the errors of several samplers by network evaluations, in a panel for each of two kinds of error.

    Args:
        curves: for each sampler, by its name in the legend, pairs (network evaluations, errors) by kind:
            ``wasserstein``, the distance of samples from the data, and ``solution``, the error against the ODE's
            solution; others are ignored.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.5), layout="constrained")
    axes = figure.subplots(1, len(_ERRORS))
    for axis, (kind, label) in zip(axes, _ERRORS.items(), strict=True):
        axis.set_prop_cycle(color=colormaps["tab20"]([*range(0, 20, 2), *range(1, 20, 2)]))
        for name, measured in curves.items():
            axis.loglog(*measured.get(kind, ([], [])), "o-", markersize=3, label=name)
        axis.set(xlabel="network evaluations", title=label)
        axis.grid(alpha=0.3, which="both")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    return figure
