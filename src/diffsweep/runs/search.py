"""Searches: sweeps whose values Optuna chooses by the results of earlier jobs (``-m hydra/sweeper=optuna``).

Each key with several values is searched: ``schedule=linear,cosine`` and ``sampler.steps=range(10,50,10)`` by their
values, ``optimizer.lr=interval(1e-4,1e-2)`` between two numbers, and ``tag(log,interval(1e-4,1e-2))`` between their
logarithms. Job k is trial k. Optuna's journal lies in the folder of the sweep, so an interrupted search goes on, and
the same line in several terminals searches side by side. A trial that failed is not tried again.
"""

import contextlib
import functools
import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override

from diffsweep import shell
from diffsweep.comparison.records import FAILED, FINISHED
from diffsweep.configuration.compose import Composed, compose_job
from diffsweep.configuration.jobs import choices, jobs, launcher_of, parsed, swept_keys
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.resolvers import LAUNCHER, SWEEP, SWEPT, sweep_name
from diffsweep.errors import Failed, UserError
from diffsweep.metric_table import HIGHER, LOWER, METRICS, metric
from diffsweep.runs.functions import summary_of
from diffsweep.runs.manifest import UNFINISHED, JobRecord, Manifest
from diffsweep.runs.signals import handling
from diffsweep.runs.supervising import worker
from diffsweep.runs.sweeps import conclude, printed_when_stopped, reasons, start_alone, summarise

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

JOURNAL = "optuna.journal"
MARGIN = 1_000  # trials of a search: seeds of searches that follow each other draw from different streams


class Search:
    """A search: Optuna's study and the manifest of its jobs, of which number k is trial k.

    Args:
        command: such as ``train``.
        overrides: of the command line.

    Raises:
        UserError: an override is wrong, no key is searched, or the folder of the sweep holds another one.
    """

    def __init__(self, command: str, overrides: Sequence[str]) -> None:
        if importlib.util.find_spec("optuna") is None:
            raise UserError("hydra/sweeper=optuna requires Optuna: pip install 'diffsweep[optuna]'")
        if (launcher := launcher_of(overrides)) is not None:
            raise UserError(
                f"hydra/launcher={launcher} starts no searches; start the same line in several terminals, without it, "
                "to search side by side"
            )
        os.environ[SWEEP], os.environ[SWEPT] = sweep_name(command, overrides), ",".join(swept_keys(overrides))
        self.command, self.fixed = command, jobs(overrides)[0]
        self.space = {o.get_key_element(): distribution(o) for o in parsed(overrides) if o.is_sweep_override()}
        if not self.space:
            raise UserError("a search varies keys with several values, such as optimizer.lr=interval(1e-4,1e-2)")
        first = self._checked()
        settings, self.metric_name = first.hydra.hydra.sweeper, first.cfg.get("optimized_metric") or "result"
        self.num_trials, self.seed = int(settings.n_trials), int(settings.seed)
        self.best = metric(self.metric_name).best if self.metric_name in METRICS else LOWER
        self.manifest = Manifest(first.sweep_dir)
        words = [override for override in overrides if not override.startswith(LAUNCHER)]
        if self.manifest.exists:
            self.manifest.words(command, words)
        else:
            self.manifest.create(command, words, [])
        worker.report(self.manifest.folder)
        self.study = self._study()

    def _checked(self) -> Composed:
        """Return a job of the search, after each value was found to be one that its key takes.

        Some combinations may be refused when their turn comes, but not both that of all first and of all last values.
        """
        ends = [{key: values(of)[end] for key, of in self.space.items()} for end in (0, -1)]
        for key, of in self.space.items():
            for value in values(of)[1:-1]:
                compose_job(self.command, [*self.fixed, *typed({**ends[0], key: value})], 0)
        first, last = (compose_job(self.command, [*self.fixed, *typed(end)], 0) for end in ends)
        try:
            preflight(first.cfg)
        except UserError:
            preflight(last.cfg)
        return first

    def _study(self) -> "Study":
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(self.manifest.folder / JOURNAL))),
            study_name=self.manifest.folder.name,
            direction="maximize" if self.best == HIGHER else "minimize",
            load_if_exists=True,
        )

    def next(self) -> Composed | None:
        """Return the next job: one that was interrupted, or a new one; None if the search has all its trials."""
        with self.manifest.held("search"):
            self.manifest.settle(lambda job: True)
            self._report_results()
            records = self.manifest.jobs
            trials = self.study.get_trials(deepcopy=False)
            for trial, record in zip(trials, records, strict=False):
                if record.state in UNFINISHED:
                    return self._job(trial)
            if len(trials) == len(records):
                if len(trials) >= self.num_trials:
                    return None
                trials = [*trials, self._draw(len(trials))]
            job = self._job(trials[len(records)])  # of a trial that was just drawn, or whose process was killed then
            self.manifest.add(JobRecord(job.name, job.words[len(self.fixed) :]))
            return job

    def _draw(self, number: int) -> "FrozenTrial":
        """Return a new trial. What is drawn for it depends on its number and the results before it alone."""
        from optuna.samplers import TPESampler
        from optuna.trial import FrozenTrial

        self.study.sampler = TPESampler(seed=self.seed * MARGIN + number)
        drawn = self.study.ask(self.space)
        found: FrozenTrial = self.study.get_trials(deepcopy=False)[drawn.number]
        return found

    def _job(self, trial: "FrozenTrial") -> Composed:
        return compose_job(self.command, [*self.fixed, *typed(trial.params)], trial.number)

    def _report_results(self) -> None:
        """Give the study the results of jobs that have ended, also those of processes that were killed since."""
        from optuna.trial import TrialState

        for trial, job in zip(self.study.get_trials(deepcopy=False), self.manifest.jobs, strict=False):
            if not trial.state.is_finished() and job.state == FINISHED and job.result is not None:
                away = abs(job.result - self.best)  # of a metric with a best value, such as 1
                self.study.tell(trial.number, job.result if away == float("inf") else away)
            elif not trial.state.is_finished() and job.state in (FINISHED, FAILED):
                self.study.tell(trial.number, state=TrialState.FAIL)

    def run(self) -> None:
        """Run trials until the search has all of them."""
        while (job := self.next()) is not None:
            self.manifest.run(job.name, functools.partial(_checked_and_started, job))

    def best_job(self) -> JobRecord | None:
        """Return the record of the best job; None if none has a result."""
        self._report_results()
        with contextlib.suppress(ValueError):  # no trial is complete
            return self.manifest.jobs[self.study.best_trial.number]
        return None


def run_search(command: str, overrides: Sequence[str]) -> None:
    """Search: run jobs whose values Optuna chooses, until the command line's ``hydra.sweeper.n_trials`` have run.

    Args:
        command: such as ``train``.
        overrides: of the command line.

    Raises:
        UserError: as :class:`Search`. Then nothing was started.
        Failed: each job has failed. That some fail, as with too large a learning rate, is part of a search.
        Stopped: the search was stopped by Ctrl-C or SIGTERM.
    """
    search = Search(command, overrides)
    line = shell.sweep(command, overrides)
    with printed_when_stopped(line), handling():
        search.run()
    best = search.best_job()
    if best is None:
        conclude(search.manifest, line, summary_of(command))
        raise Failed("no trial of the search has a result")
    summarise(search.manifest, summary_of(command))
    jobs_run = search.manifest.jobs
    if failed := [job for job in jobs_run if job.state == FAILED]:
        print(f"\n{len(failed)} of {len(jobs_run)} trials failed:\n{reasons(failed)}")
    print(f"\nbest of {len(jobs_run)} trials: {search.metric_name} {best.result:.5g} by {' '.join(best.overrides)}")
    print(f"  {shell.shown(search.manifest.folder / best.name)}")


def distribution(override: Override) -> "BaseDistribution":
    """Return what Optuna draws for a key with several values.

    Args:
        override: ``KEY=A,B``, ``KEY=choice(A,B)``, ``KEY=range(1,10,3)``, ``KEY=interval(0,1)``,
            ``KEY=int(interval(1,9))`` or ``KEY=tag(log,interval(1e-4,1e-2))``; both ends of an interval can be drawn.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if not isinstance(value, IntervalSweep):
        return CategoricalDistribution([choice.partition("=")[2] for choice in choices(override)])
    low, high, log = value.start, value.end, "log" in value.tags
    if low is None or high is None or not low < high or (log and low <= 0):
        above = ", above 0," if log else ""
        raise UserError(f"{override.input_line}: the first end of an interval{above} must be below the second")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def values(of: "BaseDistribution") -> list[Any]:
    """Return the choices of a distribution, or the two ends of its interval."""
    from optuna.distributions import CategoricalDistribution

    if isinstance(of, CategoricalDistribution):
        return list(of.choices)
    return [of.low, of.high]  # type: ignore[attr-defined]


def typed(params: Mapping[str, Any]) -> list[str]:
    """Return the values of keys as overrides."""
    return [f"{key}={value}" for key, value in params.items()]


def _checked_and_started(job: Composed) -> Any:
    preflight(job.cfg)
    return start_alone(job)
