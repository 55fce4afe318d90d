"""Benchmark of how long commands take to start, in processes of their own, beside imports that they cannot avoid."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import diffsweep
from diffsweep.benchmarks.base import Bench, Ratio, Results, compare, part
from diffsweep.configuration.conf import defaults
from diffsweep.errors import Failed
from diffsweep.progress import tracked

SRC = Path(diffsweep.__file__).parents[1]
STARTED = "diffsweep.runs.startup"  # starts a command and prints its phases
TYPED = {"COMP_LINE": "python src/train.py sched", "COMP_POINT": "25"}  # what the shell passes to tab completion
LIBRARIES = "import torch, lightning.pytorch"  # that every model is made of
ONLY_TRAINED = ("trainer.max_steps=1", "metrics=none", "likelihood=none", "callbacks=minimal", "logger=csv")


@part
def startup(bench: Bench) -> Results:
    """Return, by a label, the ratio of the start of a command to the imports of torch and Lightning alone.

    This is the part ``startup`` of ``benchmark.py``. ``train.py`` starts with the chosen options up to its first
    optimizer step, ``evaluate.py`` and ``sample.py`` on a run of one step up to the first call of their network, and
    ``train.py --help`` and tab completion to their end, the last two beside the import of Hydra. Processes of both
    sides run in turn, after one of each that fills the disk's cache. Each result has besides the median seconds of each
    phase, and of the processor (``cpu``): see :func:`diffsweep.runs.startup.main`.
    """
    usual, cfg = defaults("benchmark"), bench.cfg
    chosen = [
        f"{group}={option}" for group, option in cfg.choices.items() if option != usual.get(group) and group != "suite"
    ]
    with TemporaryDirectory() as folder:
        place, run = f"paths.output_dir={folder}", Path(folder) / "run"
        _run([str(SRC / "train.py"), *chosen, *ONLY_TRAINED, place, f"paths.run_dir={run}"])
        usage = [f"run={run}", f"metrics={defaults('train')['metrics']}", f"logger={defaults('train')['logger']}"]
        jobs = {"train": [*chosen, place], "evaluate": [*usage, "checkpoint=last"], "sample": usage}
        results: Results = {}
        for command, words in jobs.items():
            first = "optimizer step" if command == "train" else "network call"
            label = f"{command}.py to its first {first}, against imports of torch and Lightning"
            results[label] = _compared(["-m", STARTED, "", command, *words], LIBRARIES, cfg.repeats, command)
        for name, words in {"--help": ["--help"], "completion": ["-sc", "query=bash"]}.items():
            label = f"train.py {name}, against the import of Hydra"
            results[label] = _compared([str(SRC / "train.py"), *words], "import hydra", cfg.repeats, name)
    return results


def _compared(ours: list[str], bare: str, repeats: int, name: str) -> Ratio:
    """Return the ratio of the time of a Python process to that of a program of imports, and the medians of its phases.

    Args:
        ours: the arguments of Python; the time of the start takes the place of an empty one, and what is printed are
            the phases of such a process.
        bare: the program that is compared with.
        repeats: pairs of processes.
        name: the label of the progress bar.
    """
    pairs, phases = [], []
    for _ in tracked(range(repeats + 1), name, "repeat"):
        begin = time.time()
        printed = _run([word or str(begin) for word in ours])
        middle = time.time()
        _run(["-c", bare])
        pairs.append((middle - begin, time.time() - middle))
        phases.append(json.loads(printed.splitlines()[-1]) if "" in ours else {})
    del pairs[0], phases[0]  # they have filled the disk's cache
    result = compare([a for a, _ in pairs], [b for _, b in pairs])
    medians = {name: [statistics.median(one[name][i] for one in phases) for i in (0, 1)] for name in phases[0]}
    return {**result, "phases": {name: (wall, cpu) for name, (wall, cpu) in medians.items()}}


def _run(arguments: Sequence[str]) -> str:
    """Run Python with arguments and return what it prints.

    Raises:
        Failed: the process has failed; the message has the end of its errors.
    """
    paths = os.pathsep.join(filter(None, [str(SRC), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **TYPED, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    if done.returncode:
        raise Failed(f"a process that is timed has failed: {' '.join(done.stderr.split()[-40:])}")
    return done.stdout
