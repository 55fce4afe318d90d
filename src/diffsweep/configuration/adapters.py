"""Add adapters to a loaded model: updates of low rank of its weights, and control networks, of other runs or programs.

Updates of low rank are added to the weights, which then are plain ones again; control networks stay beside the network.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from diffsweep import shell
from diffsweep.adaptation import Adaptation, Adapter, ControlNet, Lora, LowRank, merge
from diffsweep.adaptation.lora import BASE, adaptable
from diffsweep.adaptation.low_rank import misfit
from diffsweep.callbacks import averaged_weights
from diffsweep.callbacks.checkpoints import FOLDER, LAST, read_weights, taking
from diffsweep.configuration.check import is_of_kind, locate
from diffsweep.configuration.saved import CONFIG, load_config
from diffsweep.configuration.sizes import instantiated
from diffsweep.errors import UserError
from diffsweep.interchange.adapter_files import read_adapter
from diffsweep.layers import weights_hash
from diffsweep.models import Model

DOWN, UP = ".lora_A.default.weight", ".lora_B.default.weight"


def add_adapters(model: Model, words: Sequence[str], load: Callable[..., Model], trust: Sequence[str] = ()) -> None:
    """Add adapters to a model, in place, each times its weight.

    Args:
        model: a trained model: their base, or one that was adapted from it and has all of its weights frozen, such as
            by another adapter or a control network.
        words: each ``PATH`` or ``PATH:WEIGHT``, where the path is that of a run of ``adaptation=lora`` or of
            ``controlnet``, of a file of safetensors or of an exported folder, and the weight is 1 by default.
        load: returns the model of a run, as :func:`~diffsweep.configuration.loading.trained` does.
        trust: packages besides diffsweep whose classes the runs may name.

    Raises:
        UserError: a path has no adapter, or the adapter is of another base, or a weight is no number.
    """
    bases, pairs, controls = {weights_hash(model)}, [], list[tuple[Model, float]]()
    if model.adaptation is not None and not model.adaptation.train:
        bases.add(model.adaptation.weights)
    for word in words:
        path, weight = parsed(word)
        shown = f"adapters: {shell.shown(path)}"
        if not path.exists():
            raise UserError(f"{shown} does not exist; give a run of adaptation=lora or controlnet, or an export")
        if _is_run_of(path, ControlNet, trust):
            control = load(str(path), trust=list(trust))
            _check_base(shown, control.adaptation.weights, bases)
            print(f"{shown} is a control network, times {weight:g}", flush=True)
            controls.append((control, weight))
            continue
        adapter = _of_run(path, model, trust) if (path / CONFIG).is_file() else read_adapter(path, adaptable(model))
        _check_base(shown, adapter.base, bases)
        if (reason := misfit(adapter, model)) is not None:
            raise UserError(f"{shown} is of another base: {reason}")
        known = "" if adapter.base else ", of a base that its file does not name"
        print(f"{shown} changes {len(adapter.updates)} layers, times {weight:g}{known}", flush=True)
        pairs.append((adapter, weight))
    merge(model, pairs)
    for control, weight in controls:
        control.adaptation.join(model, control, weight)


def _check_base(shown: str, theirs: str | None, ours: set[str]) -> None:
    """Raise a UserError if an adapter is of a base with other weights; its hash is None if it is not known."""
    if theirs is not None and theirs not in ours:
        raise UserError(
            f"{shown} is of another base, of weights {theirs[:12]}, than this run, of {min(ours)[:12]}; give the run "
            "that it was trained from"
        )


def _is_run_of(path: Path, kind: type[Adaptation], trust: Sequence[str]) -> bool:
    """Return whether a path is the directory of a run of an adaptation of some kind."""
    if not (path / CONFIG).is_file():
        return False
    target = load_config(path).get("adaptation", {}).get("_target_")
    return target is not None and is_of_kind(locate(target, trust), kind)


def parsed(word: str) -> tuple[Path, float]:
    """Return the path and the weight of ``PATH`` or ``PATH:WEIGHT``; the weight is 1 by default.

    Raises:
        UserError: the weight is not finite.
    """
    path, colon, last = word.rpartition(":")
    try:
        weight = float(last) if colon else 1.0
    except ValueError:
        return Path(word), 1.0
    if not math.isfinite(weight):
        raise UserError(f"adapters: the weight of {path} is {last}; give a number, such as {path}:0.7")
    return Path(path if colon else word), weight


def _of_run(path: Path, model: Model, trust: Sequence[str]) -> Adapter:
    """Return the averaged updates of a run of ``adaptation=lora``.

    Raises:
        UserError: the run is of another adaptation, has no checkpoint, or has trained other weights too.
    """
    if not _is_run_of(path, Lora, trust):
        raise UserError(
            f"adapters: {shell.shown(path)} is no run of adaptation=lora or controlnet, but has the weights of a model"
        )
    adaptation: Lora = instantiated(load_config(path), "adaptation")
    file = path / FOLDER / LAST
    weights = averaged_weights(read_weights(file, lambda other: taking(file, other)))
    base = {name.replace(BASE, "."): weight for name, weight in model.state_dict().items()}
    for name, weight in weights.items():
        plain = name.replace(BASE, ".")
        if not name.endswith((DOWN, UP)) and not (plain in base and torch.equal(base[plain].cpu(), weight)):
            raise UserError(f"adapters: {shell.shown(path)} has trained {plain} too, so it is more than an adapter")
    layers = [name.removesuffix(DOWN) for name in weights if name.endswith(DOWN)]
    updates = {name: LowRank(weights[name + DOWN], weights[name + UP], adaptation.alpha) for name in layers}
    return Adapter(updates, adaptation.weights)
