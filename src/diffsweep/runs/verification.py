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
from diffsweep.comparison.tables import matrix
from diffsweep.configuration.build import build
from diffsweep.discovery import import_all
from diffsweep.errors import Failed
from diffsweep.files import write_text
from diffsweep.progress import ProgressMeter
from diffsweep.proof_plots import plot_convergence, plot_errors, plot_passages
from diffsweep.proofs import Check, Curve, Subject
from diffsweep.proofs.base import proofs_of
from diffsweep.runs import report

CERTIFICATE, PLOT, PASSAGES = "verify.json", "verify.png", "inpainting.png"
PARTS = ("schedule", "prediction", "sampler", "guidance", "noise")  # the parts that proofs are about
EVALUATIONS = (10, 20, 50, 100)  # network evaluations; the columns of a sweep's table


def verify(cfg: DictConfig) -> float:
    """Run ``verify.py``: prove that the chosen schedule, prediction, sampler, guidance and noise are right together.

    Proofs are measured numbers with bounds, such as a sampler's order of convergence. They are printed and written with
    their bounds to ``verify.json`` in the run's directory and, with matplotlib, plotted to ``verify.png``; of RePaint
    with ``task=inpaint`` errors by the number of passages to ``inpainting.png``.

    Args:
        cfg: a checked configuration of ``verify``.

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
        for name in (CERTIFICATE, PLOT, PASSAGES):
            if (folder / name).exists():
                print(f"  {shell.shown(folder / name)}")
        refuse(failed)
    else:
        print(
            f"{folder.name}: {len(failed)} of {len(checks)} checks failed" if failed else f"{folder.name}: all passed"
        )
    return next(check.measured for check in checks if "Wasserstein distance, Gaussian" in check.name)


def certify(cfg: DictConfig, folder: Path) -> list[Check]:
    """Run the proofs of a configuration, and return their checks: measured numbers, each with its bounds.

    A proof is a function that compares the configured schedule, prediction, sampler, guidance or noise with an exact
    result. Those of packages in ``cfg.trust`` are run too. The certificate ``verify.json`` and, with matplotlib,
    ``verify.png`` are written into the folder.

    Args:
        cfg: the configuration with these parts.
        folder: where the files are written.
    """
    import_all(proofs)
    torch.manual_seed(cfg.seed)
    subject = Subject(*(build(cfg, group) for group in PARTS))
    if "task" in cfg and cfg.task is not None:
        subject.task = build(cfg, "task")
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
        "passages": {name: curve._asdict() for name, curve in subject.passages.items()},
    }
    write_text(folder / CERTIFICATE, json.dumps(content, indent=2) + "\n")
    if importlib.util.find_spec("matplotlib") is not None:
        plot_convergence(subject.curves, subject.sampler.order).savefig(folder / PLOT, dpi=120)
        if subject.passages:
            plot_passages(subject.passages).savefig(folder / PASSAGES, dpi=120)
    return checks


def refuse(failed: Sequence[Check]) -> None:
    """Raise Failed if the list of failed checks is not empty; the message has their names, numbers and bounds.

    Raises:
        Failed: a check failed.
    """
    if failed:
        names = "; ".join(f"{check.name} {check.measured:.3g}, required {_bounds(check)}" for check in failed)
        raise Failed(
            f"{len(failed)} of the checks failed: {names}. Try another sampler.spacing, more steps or another sampler"
        )


def rows(checks: Sequence[Check]) -> list[tuple[str, str, str]]:
    """Return a row (name, number, pass or FAIL with the bounds) of a printed table for each check.

    The last text is empty for a number without a bound.
    """
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
    """Summarise a sweep of ``verify.py``: print a table of sampling errors, and write and plot them in its folder.

    The files are ``errors.csv`` and, with matplotlib, ``errors.png``: errors by network evaluations for each job.

    Args:
        folder: the folder of the sweep, with a subfolder for each job.

    Raises:
        UserError: no job has finished.
        Failed: a job did not pass its checks.
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
    print(matrix([*map(str, EVALUATIONS), "order", ""], cells))
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
