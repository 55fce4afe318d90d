"""Trained models that another run needs."""

from collections.abc import Sequence

from diffsweep.models import Model
from diffsweep.runs.compose import compose
from diffsweep.runs.errors import UserError
from diffsweep.runs.loading import load_model


def trained(run: str | None, train: Sequence[str] | None = None, inherit: Sequence[str] = ()) -> Model:
    """The model of a run, with its averaged weights."""
    if run is None:
        raise UserError("a trained model is missing: give the directory of its run")
    return load_model(compose("evaluate", [f"run={run}"]))
