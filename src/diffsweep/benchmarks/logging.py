"""Benchmarks of logging: what a log costs at the end of a long run, beside its start."""

import time
import tracemalloc
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning.pytorch.loggers import Logger

from diffsweep.benchmarks.base import BYTES, Bench, Results, compare, part
from diffsweep.progress import ProgressMeter

TIMED = 10_000  # logs at each end of the run that are timed, or a tenth of all where that is less
VALIDATED = 100  # logs from one validation to the next
NAMES = ("loss", "loss_q1", "loss_q2", "loss_q3", "loss_q4", "lr", "grad_norm", "ema_decay")


@part
def logging(bench: Bench) -> Results:
    """Return, by a label, ratios of the last logs of a run to its first ones.

    This is the part ``logging`` of ``benchmark.py``. Each logger of the run, ``metrics.csv`` and those that ``logger``
    chooses, records ``logged_steps`` steps of eight metrics, with a validation after each 100. The time for a log, that
    of the processor, is of the last 10,000 steps over that of the first 10,000; the memory is the most that Python
    allocates in the last logs between these two, over that in the first.
    """
    found: Results = {}
    with TemporaryDirectory() as name, ExitStack() as closing:
        settings = bench.cfg.copy()
        settings.paths.run_dir = str(Path(name) / "run")
        for logger in bench.loggers(settings):
            closing.callback(logger.finalize, "success")
            found |= _of(logger, bench.cfg.logged_steps, bench.cfg.repeats)
    return found


def _of(logger: Logger, steps: int, repeats: int) -> Results:
    """Return the ratios of one logger."""
    size = min(TIMED, steps // 10) // repeats  # logs of a block that is timed
    ends = size * repeats
    peaks: list[float] = []
    with ProgressMeter(type(logger).__name__, steps, "step") as bar:

        def log(begin: int, end: int) -> float:
            now = time.process_time()
            _log(logger, begin, end)
            seconds = (time.process_time() - now) / (end - begin)
            bar.update(end - begin)
            return seconds

        first = [log(begin, begin + size) for begin in range(0, ends, size)]
        tracemalloc.start()  # it makes all work slower, so that these logs are not timed
        for begin in range(ends, steps - ends, ends):
            tracemalloc.reset_peak()
            log(begin, min(begin + ends, steps - ends))
            peaks.append(float(tracemalloc.get_traced_memory()[1]))
        tracemalloc.stop()
        last = [log(begin, begin + size) for begin in range(steps - ends, steps, size)]
    name, few = type(logger).__name__, len(peaks) // 2 or 1
    return {
        f"a log by {name} after {steps - ends:,}, against the first": compare(last, first),
        f"memory of logs by {name}, the last against the first": {**compare(peaks[-few:], peaks[:few]), "unit": BYTES},
    }


def _log(logger: Logger, begin: int, end: int) -> None:
    for step in range(begin + 1, end + 1):
        logger.log_metrics({f"train/{name}": 1 / (k + step) for k, name in enumerate(NAMES)}, step)
        logger.save()
        if step % VALIDATED == 0:
            logger.log_metrics({"val/loss": 1 / step, "val/x0_mse": 2 / step}, step)
            logger.save()
