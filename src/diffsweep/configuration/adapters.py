"""Add adapters, updates of low rank of other runs or programs, to the weights of a loaded model."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from diffsweep import shell
from diffsweep.adaptation import Adapter, Lora, LowRank, merge
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

DOWN, UP = ".lora_A.default.weight", ".lora_B.default.weight"


def add_adapters(model: nn.Module, words: Sequence[str], trust: Sequence[str] = ()) -> None:
    """Add adapters to the weights of a model, in place, each times its weight.

    Args:
        model: a trained model, their base.
        words: each ``PATH`` or ``PATH:WEIGHT``, where the path is that of a run of ``adaptation=lora``, of a file of
            safetensors or of an exported folder, and the weight is 1 by default.
        trust: packages besides diffsweep whose classes the runs may name.

    Raises:
        UserError: a path has no adapter, or the adapter is of another base, or a weight is no number.
    """
    own, pairs = weights_hash(model), []
    for word in words:
        path, weight = parsed(word)
        shown = f"adapters: {shell.shown(path)}"
        adapter = _of_run(path, model, trust) if (path / CONFIG).is_file() else read_adapter(path, adaptable(model))
        if adapter.base is not None and adapter.base != own:
            raise UserError(
                f"{shown} is of another base, of weights {adapter.base[:12]}, than this run, of {own[:12]}; give the "
                "run that it was trained from"
            )
        if (reason := misfit(adapter, model)) is not None:
            raise UserError(f"{shown} is of another base: {reason}")
        known = "" if adapter.base else ", of a base that its file does not name"
        print(f"{shown} changes {len(adapter.updates)} layers, times {weight:g}{known}", flush=True)
        pairs.append((adapter, weight))
    merge(model, pairs)


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


def _of_run(path: Path, model: nn.Module, trust: Sequence[str]) -> Adapter:
    """Return the averaged updates of a run of ``adaptation=lora``.

    Raises:
        UserError: the run is of another adaptation, has no checkpoint, or has trained other weights too.
    """
    cfg = load_config(path)
    target = cfg.get("adaptation", {}).get("_target_")
    if target is None or not is_of_kind(locate(target, trust), Lora):
        raise UserError(f"adapters: {shell.shown(path)} is no run of adaptation=lora, but has the weights of a model")
    adaptation: Lora = instantiated(cfg, "adaptation")
    file = path / FOLDER / LAST
    weights = averaged_weights(read_weights(file, lambda other: taking(file, other)))
    base = model.state_dict()
    for name, weight in weights.items():
        plain = name.replace(BASE, ".")
        if not name.endswith((DOWN, UP)) and not (plain in base and torch.equal(base[plain].cpu(), weight)):
            raise UserError(f"adapters: {shell.shown(path)} has trained {plain} too, so it is more than an adapter")
    layers = [name.removesuffix(DOWN) for name in weights if name.endswith(DOWN)]
    updates = {name: LowRank(weights[name + DOWN], weights[name + UP], adaptation.alpha) for name in layers}
    return Adapter(updates, adaptation.weights)
