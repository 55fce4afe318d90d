"""Find the settings by which runs differ, as a user would type them, and the fields by which protocols differ."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from diffsweep.comparison.records import PROTOCOLS, Record, as_typed, sampler_keys
from diffsweep.configuration import conf

SEED = "seed"
RUN = "run"  # the run that an evaluation measures
PRESETS = ("model", "experiment", "debug")  # groups whose options choose and set other groups
# Fields of a protocol that state how samples were made; the others state how they were measured.
MADE = ("sampler", "feature_cache", "guidance", "conditioning", "variance", "precision")
# Groups that a validation loss depends on beside the network, so that losses under others cannot be ranked.
LOSS = (
    *("dataset", "autoencoder", "schedule", "noise", "prediction", "objective", "weighting", "time_sampling"),
    *("conditioning", "model.val_repeats"),
)
NO_LOSS = ("dataset.batch_size", "dataset.num_workers", "dataset.seed", "conditioning.dropout")
ABSENT = "-"


def varied(records: Sequence[Record]) -> list[str]:
    """Return the keys of settings by which runs differ beside the seed, the fewest that explain the differences.

    Of the jobs of one sweep they are the keys that the sweep varies. Of other runs they are all keys that differ but
    those whose values follow from other choices: with ``model=edm`` the schedule is EDM's.

    Args:
        records: of the runs.
    """
    sweeps = {record.sweep for record in records}
    typed = list(dict.fromkeys(key for record in records for key in record.typed if key != SEED))
    if len(sweeps) == 1 and all(record.typed for record in records):
        found = [key for key in typed if len({record.typed.get(key) for record in records}) > 1]
    else:
        keys = dict.fromkeys((*PRESETS, *(key for record in records for key in record.settings)))
        differing = [key for key in keys if key != SEED and _differs(records, key)]
        follow = {key for key in differing if key != RUN and all(value_follows(record, key) for record in records)}
        found = [key for key in differing if key not in follow]
    rest = [key for key in found if key != RUN]
    distinct = {(record.seed, *(value_of(record, key) for key in rest)) for record in records}
    return rest if len(distinct) == len(records) else found


def value_of(record: Record, key: str) -> str:
    """Return the value of a setting of a run as it is typed; a dash if the run does not have it."""
    if key in record.typed:
        return record.typed[key].strip("'\"")
    return record.shown(key) if key in record.settings else ABSENT


def _differs(records: Sequence[Record], key: str) -> bool:
    """Return whether runs have different values of a key, as they are written: references count as text."""
    first = records[0].settings.get(key, ABSENT)
    return any(record.settings.get(key, ABSENT) != first for record in records)


def value_follows(record: Record, key: str) -> bool:
    """Return whether a run has the value of a setting that its other choices give it."""
    value = record.settings.get(key, ABSENT)
    group, _, rest = key.partition(".")
    if group in PRESETS and not rest:
        return False
    option = str(record.settings.get(group))
    for preset in reversed(PRESETS):  # the later ones change what the earlier ones set
        chosen = _preset(preset, str(record.settings.get(preset)))
        if key in chosen:
            return bool(value == chosen[key])
    if not rest:
        return group in conf.groups() and value == _defaults().get(group)
    return bool(value == _values(group, option).get(rest, ABSENT))


@functools.cache
def _defaults() -> Mapping[str, str]:
    """Return the option of each group that training starts from."""
    return conf.defaults("train")


@functools.cache
def _preset(group: str, option: str) -> Mapping[str, Any]:
    """Return what an option of a preset group chooses and sets, by flat keys, with those that it starts from."""
    content = conf.content(group, option)
    found: dict[str, Any] = {}
    for entry in content.get(conf.DEFAULTS, []):
        if isinstance(entry, Mapping):
            for name, chosen in entry.items():
                other = str(name).removeprefix("override ").lstrip("/").partition("@")[0]
                found[other] = chosen
                if other in PRESETS and other != group:
                    found = {**_preset(other, str(chosen)), **found}
        else:
            base = str(entry).lstrip("/").partition("@")[0].rpartition("/")[2]
            if base in conf.files(group) and base != option:
                found |= _preset(group, base)
    return found | _own_values(group, option, "" if conf.is_global(group, option) else f"{group}.")


@functools.cache
def _values(group: str, option: str) -> Mapping[str, Any]:
    """Return the values that an option gives its keys, with those of the files that it starts from."""
    found: dict[str, Any] = {}
    for entry in conf.content(group, option).get(conf.DEFAULTS, []):
        if str(entry) in conf.files(group):
            found |= _values(group, str(entry))
    return found | _own_values(group, option)


def _own_values(group: str, option: str, prefix: str = "") -> dict[str, Any]:
    """Return the values that the file of an option has itself, by flat keys."""
    own = {key: value for key, value in conf.content(group, option).items() if key != conf.DEFAULTS}
    return dict(conf.leaves(own, prefix))


def protocol_of(record: Record, metric: str) -> Mapping[str, Any]:
    """Return what a number depends on beside the model: the protocol of a metric, or the loss that was validated."""
    if metric.startswith(("val/", "train/")):
        chosen = {
            key: record.shown(key)
            for key in record.settings
            if key not in NO_LOSS and any(f"{key}.".startswith(f"{name}.") for name in LOSS)
        }
        return {key: value for key, value in chosen.items() if "${" not in value}
    name = next(name for name, first in reversed(PROTOCOLS.items()) if metric.startswith(first))
    return record.protocols.get(name, {})


def fields_that_differ(
    records: Sequence[Record], metric: str, making_may_differ: bool
) -> dict[str, list[tuple[str, str]]]:
    """Return the fields by which the protocols of a metric differ, each with the values and a run that has each.

    The seed may differ: its runs are repetitions. How samples were made may differ where that is what is compared.

    Args:
        records: of runs that have the metric.
        metric: its name.
        making_may_differ: whether runs are to differ in how samples are made.
    """
    protocols = [protocol_of(record, metric) for record in records]
    names = dict.fromkeys(name for protocol in protocols for name in protocol)
    found: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        values: dict[str, str] = {}
        for record, protocol in zip(records, protocols, strict=True):
            values.setdefault(field_text(protocol.get(name, ABSENT)), record.name)
        if name != SEED and len(values) > 1 and not (making_may_differ and is_of_making(name)):
            found[name] = list(values.items())
    return found


def varies_making(keys: Sequence[str]) -> bool:
    """Return whether keys by which runs differ all decide how samples are made, so that these may be compared."""
    decide = (*MADE, "prediction.variance", "trainer.precision")
    return bool(keys) and all(key in decide or key.partition(".")[0] in MADE for key in keys)


def is_of_making(name: str) -> bool:
    """Return whether a field of a protocol states how samples were made, not how they were measured."""
    return name in MADE or name in sampler_keys()


def field_text(value: Any) -> str:
    """Return a value of a protocol in few characters."""
    if isinstance(value, Mapping):
        target = str(value.get("_target_", "")).rpartition(".")[2]
        rest = [f"{name}={as_typed(item)}" for name, item in value.items() if not str(name).startswith("_")]
        return " ".join(filter(None, [target, *rest]))
    return as_typed(value)
