"""The settings of a sampler as plain values, by which files of what it has drawn are identified."""

from dataclasses import asdict
from typing import Any

from diffsweep.samplers.base import Sampler


def settings_of(sampler: Sampler) -> dict[str, Any]:
    """Return the name of a sampler's class and its settings, with all values but numbers as texts."""
    values = asdict(sampler).items()
    plain = {name: value if isinstance(value, int | float | None) else str(value) for name, value in values}
    return {"name": type(sampler).__name__, **plain}
