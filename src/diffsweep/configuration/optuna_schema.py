"""Define the keys of a search by Optuna."""

from dataclasses import dataclass


@dataclass
class OptunaSearch:
    """The keys of ``hydra.sweeper`` with ``hydra/sweeper=optuna``, a search by Optuna instead of every combination.

    Attributes:
        n_trials: jobs in all; with more than before, a search goes on.
        seed: keys what the search draws.
        params: the keys that an experiment sweeps, whose values the command line has taken over.
    """

    n_trials: int = 20
    seed: int = 0
    params: dict[str, str] | None = None
