"""The command ``verify.py``: it proves a combination of parts, writes a certificate and names failed checks."""

import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from diffsweep import proofs, shell
from diffsweep.configuration.build import build
from diffsweep.discovery import import_all
from diffsweep.errors import Failed
from diffsweep.files import write_text
from diffsweep.plots import plot_convergence, plot_errors
from diffsweep.progress import ProgressMeter
from diffsweep.proofs import Check, Curve, Subject
from diffsweep.proofs.base import proofs_of
from diffsweep.runs import report

CERTIFICATE, PLOT = "verify.json", "verify.png"
PARTS = ("schedule", "prediction", "sampler", "guidance", "noise")  # the parts that proofs are about
EVALUATIONS = (10, 20, 50, 100)  # network evaluations; the columns of a sweep's table


def verify(cfg: DictConfig) -> float:
    """Prove a combination, print the checks, and write ``verify.json`` and ``verify.png``.

    Returns:
        The Wasserstein distance between Gaussian data and the samples of the configured sampler.

    Raises:
        Failed: a check does not pass. In a sweep the other jobs continue, and :func:`summarise` raises it.
    """
    folder = Path(cfg.paths.run_dir)
    checks = certify(cfg, folder)
    failed = [check for check in checks if not check.passed]
    if cfg.sweep is None:
        print(f"\n{report.table(rows(checks))}\n")
        for name in (CERTIFICATE, PLOT):
            if (folder / name).exists():
                print(f"  {shell.shown(folder / name)}")
        refuse(failed)
    else:
        print(
            f"{folder.name}: {len(failed)} of {len(checks)} checks failed" if failed else f"{folder.name}: all passed"
        )
    return next(check.measured for check in checks if "Wasserstein distance, Gaussian" in check.name)


def certify(cfg: DictConfig, folder: Path) -> list[Check]:
    """Run all proofs of a configuration, also those of trusted packages, and write their certificate into a folder."""
    import_all(proofs)
    torch.manual_seed(cfg.seed)
    subject = Subject(*(build(cfg, group) for group in PARTS))
    checks: list[Check] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are tiny
    try:
        proofs_to_run, name = proofs_of(cfg.trust), ""
        with ProgressMeter("proving", len(proofs_to_run), "proof", details=lambda: [name]) as progress:
            for proof in proofs_to_run:
                name = proof.__name__
                progress.update(0)
                checks += proof(subject)
                progress.update()
    finally:
        torch.set_num_threads(threads)
    content = {
        "passed": all(check.passed for check in checks),
        "parts": {group: OmegaConf.to_container(cfg[group], resolve=True) for group in PARTS},
        "choices": {group: cfg.choices.get(group) for group in PARTS},
        "order": subject.sampler.order,
        "checks": [{**check._asdict(), "passed": check.passed} for check in checks],
        "curves": {name: curve._asdict() for name, curve in subject.curves.items()},
    }
    write_text(folder / CERTIFICATE, json.dumps(content, indent=2) + "\n")
    if importlib.util.find_spec("matplotlib") is not None:
        plot_convergence(subject.curves, subject.sampler.order).savefig(folder / PLOT, dpi=120)
    return checks


def refuse(failed: Sequence[Check]) -> None:
    """Raise Failed if any check failed, with their names."""
    if failed:
        names = "; ".join(f"{check.name} {check.measured:.3g}, required {_bounds(check)}" for check in failed)
        raise Failed(
            f"{len(failed)} of the checks failed: {names}. Try another sampler.spacing, more steps or another sampler"
        )


def rows(checks: Sequence[Check]) -> list[tuple[str, str, str]]:
    """Return a row of a table for each check."""
    states = {True: "pass", False: "FAIL"}
    return [
        (check.name, f"{check.measured:.3g}", f"{states[check.passed]}  {_bounds(check)}" if check.required else "")
        for check in checks
    ]


def _bounds(check: Check) -> str:
    """Return the bounds of a check in words."""
    least, most = (
        f"at {word} {value:.3g}" if value is not None else ""
        for word, value in (("least", check.least), ("most", check.most))
    )
    return " and ".join(filter(None, (least, most)))


def summarise(folder: Path) -> None:
    """Summarise a sweep of proofs: print a table, and plot the errors by network evaluations.

    Raises:
        Failed: a job did not pass.
    """
    found = report.jobs_of(folder, CERTIFICATE)
    curves = {
        name: {kind: Curve(**curve) for kind, curve in content["curves"].items()} for name, content in found.items()
    }
    lines = ["name,kind,evaluations,error"]
    for name, kinds in curves.items():
        lines += [
            f"{name},{kind},{n:g},{e:.6g}"
            for kind, curve in kinds.items()
            if kind != "order"
            for n, e in zip(*curve, strict=True)
        ]
    write_text(folder / "errors.csv", "\n".join(lines) + "\n")
    states = {True: "pass", False: "FAIL"}
    cells = {
        name: [
            *(_error_at(curves[name]["wasserstein"], n) for n in EVALUATIONS),
            _order_in_words(content),
            states[content["passed"]],
        ]
        for name, content in found.items()
    }
    print("\nWasserstein distance from the data / std, by network evaluations\n")
    print(report.matrix([*map(str, EVALUATIONS), "order", ""], cells))
    print(f"\n  {shell.shown(folder / 'errors.csv')}")
    if importlib.util.find_spec("matplotlib") is not None:
        plot_errors(curves).savefig(folder / "errors.png", dpi=120)
        print(f"  {shell.shown(folder / 'errors.png')}")
    if failed := [name for name, content in found.items() if not content["passed"]]:
        raise Failed(
            f"{len(failed)} of {len(found)} did not pass: {', '.join(failed)}; each has a {CERTIFICATE} in "
            f"{shell.shown(folder)}"
        )


def _order_in_words(content: Mapping[str, Any]) -> str:
    """Return the measured order and, in parentheses, the nominal one."""
    measured = next((check["measured"] for check in content["checks"] if check["name"].startswith("order of")), None)
    return "-" if measured is None else f"{measured:.2f} ({content['order']})"


def _error_at(curve: Curve, evaluations: int) -> str:
    """Return the error at a number of evaluations, interpolated linearly in both logarithms."""
    points = list(zip(*curve, strict=True))
    for (n, error), (m, next_error) in pairwise(points):
        if n <= evaluations <= m and n < m:
            share = math.log(evaluations / n) / math.log(m / n)
            return f"{math.exp((1 - share) * math.log(error) + share * math.log(next_error)):.2g}"
    return "-"
