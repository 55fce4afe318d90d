"""Decide which changes of its configuration a resumed run takes over, and which it refuses.

The table :data:`TABLE` has a row for each kind of key; the first row that fits a key decides. It is printed in
conf/README.md.
"""

import enum
import inspect
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffsweep.configuration.check import RESERVED, locate
from diffsweep.configuration.conf import leaves
from diffsweep.configuration.flat import ENVIRONMENT, SECRET
from diffsweep.configuration.signatures import keywords_of
from diffsweep.errors import UserError


class OnResume(enum.Enum):
    """What a resumed run does with a changed key."""

    TAKEN = "takes effect"
    TAKEN_AT_START = "refused, but for a run that has not trained yet, such as an imported one"
    REFUSED = "refused"


class KeyRule(NamedTuple):
    """A row of the table: keys, what a resumed run does with a change of them, and how or why.

    Attributes:
        keys: patterns of keys, such as ``optimizer.*``; a group's name stands for the choice of its option.
        effect: whether a change takes effect.
        because: how it does, or why it is refused.
    """

    keys: tuple[str, ...]
    effect: OnResume
    because: str


UNRELATED = ("paths.*", "space.*", "condition.*", "choices.*", "sweep", "resume_from", "trust", "versions.*", "git.*")
PRESETS = ("debug", "experiment", "paths", "task")  # choices that are nothing beside the keys that they set
OF_THE_SAME_DATA = ("dataset.path", "dataset.val_path", "dataset.name")  # where the data are
IN_SAMPLES = ("dataset.batch_size", "trainer.accumulate_grad_batches", "trainer.devices", "trainer.num_nodes")
VAL_LOSS = "best.ckpt is chosen by val/loss, which would be another number from then on"
TABLE = (
    KeyRule(
        ("optimizer", "optimizer._target_"), OnResume.REFUSED, "what one optimizer has averaged is of no use to another"
    ),
    KeyRule(
        ("optimizer.*", "discriminator.lr"),
        OnResume.TAKEN,
        "from the next step on: rate, betas, eps, weight decay; its averages of gradients stay",
    ),
    KeyRule(
        ("lr_scheduler", "lr_scheduler.*"),
        OnResume.TAKEN,
        "from the next step on the rate is the one that a run with this schedule has at that step",
    ),
    KeyRule(("trainer.max_steps",), OnResume.TAKEN, "it must be above the steps that were taken"),
    KeyRule(
        IN_SAMPLES,
        OnResume.TAKEN,
        "from the next sample on: the order of samples and their noise go on, none is left out or repeated; with "
        "dataset.buckets another batch size is refused",
    ),
    KeyRule(
        ("trainer.precision",), OnResume.TAKEN, "from the next step on, if the weights keep their type, such as float32"
    ),
    KeyRule(("trainer.limit_val_batches", "model.val_repeats"), OnResume.TAKEN_AT_START, VAL_LOSS),
    KeyRule(
        ("trainer", "trainer.*"),
        OnResume.TAKEN,
        "from the next step on: gradient clip, intervals of logs, devices, ...",
    ),
    KeyRule(
        ("callbacks", "callbacks.*"),
        OnResume.TAKEN,
        "from the next step on, such as callbacks.ema.decay; an average of the weights is neither begun nor dropped",
    ),
    KeyRule(("logger", "logger.*"), OnResume.TAKEN, "what is logged from then on goes where it states"),
    KeyRule(
        ("dataset.num_workers", "dataset.cache_dir", "*.checkpointing", "halve_batch"),
        OnResume.TAKEN,
        "it changes no number",
    ),
    KeyRule(
        ("execution", "execution.*"), OnResume.TAKEN, "from the next step on; it changes no number beyond rounding"
    ),
    KeyRule(OF_THE_SAME_DATA, OnResume.TAKEN, "if the same data are at the new place"),
    KeyRule(
        ("backbone.dropout", "backbone.feature_dropout", "conditioning.dropout"),
        OnResume.TAKEN,
        "from the next step on",
    ),
    KeyRule(
        ("sampler", "sampler.*", "feature_cache", "feature_cache.*", "guidance", "guidance.*"),
        OnResume.TAKEN,
        "in the pictures and measurements from then on; training does not depend on it",
    ),
    KeyRule(
        ("metrics", "metrics.*", "likelihood", "likelihood.*", "optimized_metric", "verify", "replay", "plan"),
        OnResume.TAKEN,
        "in the measurement at the end",
    ),
    KeyRule(
        ("objective", "objective.*", "weighting", "weighting.*"),
        OnResume.TAKEN_AT_START,
        VAL_LOSS,
    ),
    KeyRule(
        ("seed", "*.seed"),
        OnResume.TAKEN_AT_START,
        "the initial weights, the order of the data and all noise so far are keyed by it",
    ),
    KeyRule(
        ("dataset", "dataset.*", "time_sampling", "time_sampling.*", "noise", "noise.*"),
        OnResume.TAKEN_AT_START,
        "the weights have learned from it",
    ),
    KeyRule(("adaptation.run", "adaptation.base.run"), OnResume.TAKEN, "if that run has the same weights"),
    KeyRule(("*",), OnResume.REFUSED, "the weights are those of another model"),
)


class Change(NamedTuple):
    """A key of a run's configuration with its former value and the new one.

    Values are as they are typed; those of the environment are hidden.
    """

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {_word(self.old)} -> {_word(self.new)}"

    @property
    def typed(self) -> str:
        """The override that makes the change."""
        return f"{self.key}={_word(self.new)}"


def row_of(key: str) -> KeyRule:
    """Return the first row of the table that fits a key."""
    return next(row for row in TABLE if any(fnmatchcase(key, pattern) for pattern in row.keys))


def changes(saved: DictConfig, cfg: DictConfig) -> list[Change]:
    """Return what a configuration changes of the saved one of a run, the choices of options first.

    Keys that the run's time did not have count only if they have another value than the default of their class; places
    (folders, sizes that follow) do not count.

    Args:
        saved: the configuration that the run has saved.
        cfg: the configuration that resumes it.
    """
    return [*_chosen(saved, cfg), *_changed(saved, cfg)]


def refuse(found: list[Change], saved: DictConfig, cfg: DictConfig, step: int) -> None:
    """Raise a UserError that names the first change which a run cannot take over.

    Args:
        found: all changes.
        saved: the configuration that the run has saved.
        cfg: the configuration that resumes it.
        step: the optimizer steps that the run has taken.

    Raises:
        UserError: with the key, both values and the reason.
    """
    for change in found:
        row = row_of(change.key)
        because = row.because
        refused = row.effect is OnResume.REFUSED or (row.effect is OnResume.TAKEN_AT_START and step > 0)
        if change.key == "trainer.precision":
            refused = _weights_type(saved.trainer.precision) != _weights_type(cfg.trainer.precision)
            because = "the weights would have another type"
        if change.key == "dataset.batch_size" and cfg.dataset.get("buckets") is not None:
            refused = step > 0
            because = (
                f"each batch has images of one size (dataset.buckets={cfg.dataset.buckets}), so other batches are of "
                "other images; trainer.accumulate_grad_batches can change"
            )
        if refused:
            raise UserError(
                f"{change} cannot change when a run is resumed: {because}; leave it out, or start a new run with it"
            )
    limit = cfg.trainer.max_steps
    if found and 0 <= limit <= step and (late := [change for change in found if _trains(change.key)]):
        lowered = any(change.key == "trainer.max_steps" for change in late)
        without = "" if lowered else f", so {late[0].typed} would change nothing"
        raise UserError(
            f"at step {step} already, and trainer.max_steps={limit}{without}; give trainer.max_steps above {step}"
        )


def _trains(key: str) -> bool:
    """Return whether a key has an effect in training alone, and none in the measurement at its end."""
    measures = ("sampler", "guidance", "metrics", "likelihood", "optimized_metric", "verify", "logger")
    machine = ("trainer.accelerator", "trainer.devices", "dataset.num_workers", "dataset.cache_dir", *OF_THE_SAME_DATA)
    return key.partition(".")[0] not in measures and key not in machine


def _weights_type(precision: Any) -> str:
    """Return the type of the weights under a precision of Lightning, of which mixed ones keep float32."""
    bits, _, kind = str(precision).partition("-")
    return "32" if kind == "mixed" else bits


def _chosen(saved: DictConfig, cfg: DictConfig) -> Iterator[Change]:
    for group, option in cfg.choices.items():
        name = str(group)
        old = saved.choices.get(name)
        if name in PRESETS or name not in saved or name not in cfg or old == option or option is None:
            continue
        yield Change(name, old, option)


def _changed(saved: DictConfig, cfg: DictConfig) -> Iterator[Change]:
    """Yield the changed values of keys, but for those of a group whose new option is refused as a whole."""
    before, now = (dict(leaves(OmegaConf.to_container(each, resolve=False))) for each in (saved, cfg))
    for key in [*now, *(key for key in before if key not in now)]:
        group = key.partition(".")[0]
        if any(fnmatchcase(key, pattern) for pattern in UNRELATED) or group not in saved or group not in cfg:
            continue
        old, new = before.get(key), now.get(key)
        if old == new or _resolved(saved, key) == _resolved(cfg, key) or _of_a_stage(key, old, new):
            continue
        if key not in before and (group == "logger" or _is_default(cfg, key)):
            continue
        yield Change(key, _shown(old), _shown(new))


def _resolved(cfg: DictConfig, key: str) -> Any:
    try:
        value = OmegaConf.select(cfg, key)
    except OmegaConfBaseException:
        return None
    return OmegaConf.to_container(value, resolve=True) if isinstance(value, DictConfig | ListConfig) else value


def _of_a_stage(key: str, old: Any, new: Any) -> bool:
    """Return whether a key is the run of a trained model that is found, and not typed."""
    return key.rpartition(".")[2] == "run" and (old is None or new is None)


def _is_default(cfg: DictConfig, key: str) -> bool:
    """Return whether a value is the default of its keyword."""
    above, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, above) if above else cfg
    if not isinstance(node, DictConfig) or "_target_" not in node or name in RESERVED:
        return False
    parameter = keywords_of(locate(str(node._target_), list(cfg.trust)))[0].get(name)
    default = None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default
    value = _resolved(cfg, key)
    return bool(default == value or (isinstance(default, tuple) and list(default) == value))


def _shown(value: Any) -> Any:
    return SECRET if isinstance(value, str) and ENVIRONMENT.search(value) else value


def _word(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
